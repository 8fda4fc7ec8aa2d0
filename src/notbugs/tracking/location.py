"""Where runs are kept: the project that they belong to, the tracking server or database, and its artifacts.

Nothing here imports MLflow, so all of it is quick.
"""

import os
import re
import socket
import sqlite3
import ssl
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing
from pathlib import Path

MODE_VARIABLE = "NOTBUGS_TRACKING"
"""Environment variable: `off` turns tracking off altogether."""
CHECK_SECONDS = 2.0
"""How long a tracking server may take to show that it is there."""
_ARTIFACTS = "mlruns/artifacts"
_BARE_ADDRESS = re.compile(r"([\w.-]+|\[[\da-fA-F:]+\]):\d{1,5}(/.*)?")
_DATABASE_PORTS = {"postgresql": 5432, "postgres": 5432, "mysql": 3306, "mariadb": 3306, "mssql": 1433}


def anchor(root: Path) -> Path:
    """The project folder that runs of `root` are filed under.

    DVC tells a stage which project it belongs to (`DVC_ROOT`), also where the stage runs in a temporary copy
    (`dvc exp run --temp`, the queue). Without it: the nearest folder at or above `root` with a `.dvc`; for a
    temporary copy (somewhere in `<project>/.dvc/tmp/exps`) the project itself.
    """
    given = os.environ.get("DVC_ROOT")
    if given:
        return Path(given).absolute()
    root = root.absolute()
    for folder in (root, *root.parents):
        if folder.parts[-3:] == (".dvc", "tmp", "exps"):
            return folder.parents[2]
    return next((folder for folder in (root, *root.parents) if (folder / ".dvc").is_dir()), root)


def work_folder(project: Path) -> Path:
    """Folder of the event logs, ignored by Git."""
    return project / ".notbugs" / "runs"


def tracking_uri(project: Path) -> str:
    """The user's MLFLOW_TRACKING_URI, or the project's own SQLite database.

    A relative SQLite path counts from the project folder, wherever the command was started. HOST:PORT alone is the
    address of a server, http://HOST:PORT.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return f"sqlite:///{project.as_posix()}/mlruns/mlflow.db"
    if _BARE_ADDRESS.fullmatch(uri):
        return f"http://{uri}"
    path = uri.removeprefix("sqlite:///")
    if path != uri and path and not path.startswith((":memory:", "file:")) and not Path(path).is_absolute():
        return f"sqlite:///{(project / path).as_posix()}"
    return uri


def store_name(project: Path, uri: str) -> str:
    """What a journal calls the place that it is sent to: without a password, and right after a move."""
    return "project" if database_file(uri) == project / "mlruns" / "mlflow.db" else shown(uri)


def is_server(uri: str) -> bool:
    """Whether the URI names an MLflow server, not a database."""
    return uri.startswith(("http://", "https://"))


def database_file(uri: str) -> Path | None:
    """File of an SQLite URI, None for anything else."""
    path = uri.removeprefix("sqlite:///").split("?")[0]
    return Path(path) if path != uri and path and not path.startswith(":memory:") else None


def artifact_root(project: Path) -> Path:
    """Where artifacts of runs in a database are put."""
    return project / _ARTIFACTS


def shown(uri: str) -> str:
    """The URI without the password that it may hold."""
    parts = urllib.parse.urlsplit(uri)
    if not parts.password:
        return uri
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))


def problem(uri: str, timeout: float = CHECK_SECONDS) -> str | None:
    """Why runs cannot be sent to `uri` at the moment, in a few words; None if nothing speaks against it.

    Servers are asked for their health, databases on another machine only for a connection.
    """
    parts = urllib.parse.urlsplit(uri)
    port = _DATABASE_PORTS.get(parts.scheme.partition("+")[0])
    if parts.scheme in ("", "file"):
        return "MLflow 3 no longer writes into plain folders; use sqlite:///FILE or the address of a server"
    try:
        if is_server(uri):
            urllib.request.urlopen(endpoint(uri, "/health"), timeout=timeout).close()
        elif port and parts.hostname:
            socket.create_connection((parts.hostname, parts.port or port), timeout).close()
    except urllib.error.HTTPError as error:
        error.close()  # below 500 it lives; a proxy in front of it may well hide /health
        return f"answers with error {error.code}" if error.code >= 500 else None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return None  # it answers; whether its certificate will do, MLflow's own settings decide
        if isinstance(reason, TimeoutError):
            return f"no answer within {timeout:g} s"
        return " ".join(str(getattr(reason, "strerror", None) or reason or type(reason).__name__).split()).lower()
    return None


def endpoint(uri: str, path: str) -> str:
    """Address of something on an MLflow server, without the user and password that the URI may hold."""
    parts = urllib.parse.urlsplit(uri)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/") + path)
    return urllib.parse.urlunsplit(bare)


def relocate_artifacts(project: Path, uri: str) -> int:
    """Make the artifact addresses of the project's own database right after the folder was moved or copied.

    MLflow stores them as absolute paths and has no call to change them; so this changes them in the tables.
    Only addresses with `mlruns/artifacts` in them are touched, and only in `<project>/mlruns/mlflow.db`.

    Returns: number of addresses changed. A locked, damaged or unknown database is left alone.
    """
    database = project / "mlruns" / "mlflow.db"
    if database_file(uri) != database or not database.exists():
        return 0
    columns = (
        ("experiments", "artifact_location"),
        ("runs", "artifact_uri"),
        ("logged_models", "artifact_location"),
        ("model_versions", "source"),
        ("model_versions", "storage_location"),
    )
    inside = f"/{_ARTIFACTS}/"
    values = {"project": project.as_uri(), "inside": inside, "here": project.as_uri() + inside}
    elsewhere = f"{{0}} LIKE 'file://%{inside}%' AND instr({{0}}, :here) <> 1"
    moved = "UPDATE {1} SET {0} = :project || substr({0}, instr({0}, :inside)) WHERE " + elsewhere
    looked = "SELECT 1 FROM experiments WHERE " + elsewhere.format("artifact_location")
    try:
        with closing(sqlite3.connect(database, timeout=5)) as connection, connection:
            if connection.execute(looked, values).fetchone() is None:  # without keeping others from writing
                return 0
            updates = [moved.format(column, table) for table, column in columns]
            return sum(connection.execute(update, values).rowcount for update in updates)
    except sqlite3.Error:
        return 0
