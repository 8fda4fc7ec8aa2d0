"""Where studies are kept: an SQLite file, or PostgreSQL or MySQL for workers on many machines."""

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from notbugs.runtime.cache import work_folder
from notbugs.runtime.errors import one_line
from notbugs.runtime.files import file_lock
from notbugs.sweeps.settings import STORAGE_VARIABLE, SweepError
from notbugs.tracking import location

T = TypeVar("T")
HEARTBEAT_VARIABLE = "NOTBUGS_SWEEP_HEARTBEAT"
"""Environment variable: seconds between two signs of life of a trial."""
HEARTBEAT_SECONDS = 10
GRACE = 6
"""Heartbeats that may be missing before a trial counts as lost."""
PATIENCE_SECONDS = 600.0
"""How long a worker waits for a database that has gone away."""
_RETRY_SECONDS = 1.0
_LOCK_SECONDS = 300.0
_DRIVERS = {"postgresql": "psycopg", "postgres": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
_MYSQL = ("mysql", "mariadb")
"""How SQLAlchemy calls it."""
_OUTAGES = (StorageInternalError, DBAPIError)

optuna.logging.set_verbosity(optuna.logging.WARNING)


class DatabaseAwayError(SweepError):
    """The database has gone away and not come back."""


def storage_url(root: Path, url: str | None) -> str:
    """The URL given, else that of the environment, else the project's own file sweeps/optuna.db.

    Raises: SweepError for another database than SQLite, PostgreSQL and MySQL.
    """
    url = (url or os.environ.get(STORAGE_VARIABLE) or "").strip() or f"sqlite:///{root / 'sweeps' / 'optuna.db'}"
    scheme, _, rest = url.partition("://")
    if scheme in _DRIVERS:  # which driver this means differs between versions of SQLAlchemy
        dialect = "postgresql" if scheme == "postgres" else scheme
        return f"{dialect}+{_DRIVERS[scheme]}://{rest}"
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        return f"sqlite:///{root / rest[1:]}"  # an absolute path stays what it is
    if scheme.partition("+")[0] not in _DRIVERS:
        raise SweepError(
            f"--storage {location.shown(url)}: must be sqlite:///FILE, postgresql://USER@HOST:PORT/DATABASE or "
            "mysql://USER@HOST:PORT/DATABASE"
        )
    return url


def artifact_folder(root: Path) -> Path:
    """Where Optuna's artifacts of a project's trials are: pictures of what they made."""
    return work_folder(root, "sweeps") / "artifacts"


@contextmanager
def open_storage(url: str) -> Iterator[RDBStorage]:
    """Connect, and make the tables if there are none; connections are closed at the end of the block.

    Raises: SweepError, in one line, if the database cannot be used.
    """
    storage = _connect(url)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _connect(url: str) -> RDBStorage:
    shown = location.shown(url)
    reason = None if url.startswith("sqlite") else location.problem(url)
    if reason:
        raise SweepError(f"--storage {shown}: cannot be reached: {reason}")
    engine: dict[str, Any] = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 5}}
    heartbeat = int(os.environ.get(HEARTBEAT_VARIABLE, HEARTBEAT_SECONDS))
    try:
        if url.startswith("sqlite"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            engine = {"connect_args": {"timeout": 60}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            first = create_engine(url, **engine)
            try:
                with exclusive(first, "tables"):  # two workers at once would both make them
                    made = RDBStorage(url, engine, heartbeat_interval=heartbeat, grace_period=GRACE * heartbeat)
                    _widen(first)
                    return made
            finally:
                first.dispose()
    except ImportError:
        extra = "postgres" if url.startswith("postgres") else "mysql"
        raise SweepError(f"--storage {shown}: needs the extra {extra}: pip install 'notbugs[{extra}]'") from None
    except (SQLAlchemyError, StorageInternalError, RuntimeError, OSError) as error:
        raise SweepError(f"--storage {shown}: cannot be used: {one_line(error.__cause__ or error)}") from None


def _widen(engine: Engine) -> None:
    """Let MySQL keep attributes longer than 64 KiB, as the other databases do: the curves of a long fit are."""
    if engine.dialect.name not in _MYSQL:
        return
    columns = "FROM information_schema.columns WHERE table_schema = DATABASE() AND column_name = 'value_json'"
    with engine.begin() as connection:
        for (table,) in connection.execute(text(f"SELECT table_name {columns} AND data_type = 'text'")).all():
            connection.execute(text(f"ALTER TABLE {table} MODIFY value_json LONGTEXT"))


@contextmanager
def exclusive(engine: Engine, name: str) -> Iterator[None]:
    """Only one process at a time, on any machine, is in a block of the same name: a study, whose trials it changes.

    PostgreSQL and MySQL: an advisory lock, which goes with the connection that holds it. SQLite: a lock file.
    """
    if engine.dialect.name in _MYSQL:
        # names of locks are the server's, not the database's, and have at most 64 characters
        lock = {"lock": sha256(f"notbugs sweep {engine.url.database} {name}".encode()).hexdigest()}
        with engine.connect() as connection:
            if not connection.execute(text(f"SELECT GET_LOCK(:lock, {_LOCK_SECONDS:g})"), lock).scalar():
                raise SweepError(f"{engine.url}: another process has held it for {_LOCK_SECONDS:g} s")
            try:
                yield
            finally:
                connection.execute(text("SELECT RELEASE_LOCK(:lock)"), lock)
        return
    if engine.dialect.name == "postgresql":
        key = int.from_bytes(sha256(f"notbugs sweep {name}".encode()).digest()[:8], "big", signed=True)
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            yield
        return
    file = Path(str(engine.url.database))
    with file_lock(file.with_name(f"{file.name}.lock"), _LOCK_SECONDS) as mine:
        if not mine:
            raise SweepError(f"{file}: another process has held it for {_LOCK_SECONDS:g} s")
        yield


class Patience:
    """Calls of the database that are repeated while it is away.

    Args:
        say: tells the user, once an outage.
        seconds: how long to go on.
    """

    def __init__(self, say: Callable[[str], None], seconds: float = PATIENCE_SECONDS) -> None:
        self._say, self._seconds = say, seconds
        self.last_outage: float | None = None
        """Monotonic time of the last failed call."""

    def __call__(self, action: Callable[[], T]) -> T:
        """What `action` returns.

        Raises: DatabaseAwayError if the database stays away.
        """
        started, said = time.monotonic(), False
        while True:
            try:
                return action()
            except _OUTAGES as error:
                self.last_outage = time.monotonic()
                reason = one_line(error.__cause__ or error)
                if self.last_outage - started > self._seconds:
                    raise DatabaseAwayError(f"the database has been away for {self._seconds:g} s: {reason}") from None
                if not said:
                    self._say(f"sweep: waiting for the database: {reason}")
                    said = True
                time.sleep(_RETRY_SECONDS)
