"""`notbugs ui`: MLflow's pages on this machine, over the runs of the project."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from notbugs.runtime.errors import UserError
from notbugs.runtime.process import as_interrupts
from notbugs.tracking import location
from notbugs.tracking.rebuilding import StudyRuns
from notbugs.tracking.reconcile import Settings, experiment_name, track
from notbugs.tracking.store import PRIVATE
from notbugs.tracking.views import ALL, view_query, view_tag

START_SECONDS = 180.0
_local = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens addresses on this machine, past any proxy."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServeError(UserError):
    """The pages cannot be served."""


def serve(
    root: Path,
    port: int,
    host: str = "127.0.0.1",
    *,
    studies: Sequence[StudyRuns] = (),
    settings: Settings = lambda entry: None,
) -> None:
    """Bring MLflow up to date and serve its pages until Ctrl-C.

    Only this machine can reach them, and only under its own name (a page elsewhere on the web cannot). If
    MLFLOW_TRACKING_URI names a server, its address is printed instead.

    Args:
        port: to listen on.
        host: a loopback address.
        studies, settings: as of `track`.
    Raises: ServeError if the port is taken, the host is not this machine, or MLflow's server does not start.
    """
    project = location.anchor(root)
    uri = location.tracking_uri(project)
    elsewhere = location.is_server(uri)
    if not elsewhere:
        _check_address(host, port)
    print(f"notbugs: tracking: {track(root, studies=studies, settings=settings)}", file=sys.stderr, flush=True)
    if elsewhere:
        print(f"MLflow: {location.shown(uri)} (the server of MLFLOW_TRACKING_URI)", flush=True)
        return
    reason = location.problem(uri)
    if reason:
        raise ServeError(f"MLflow at {location.shown(uri)}: {reason}")
    log = project / ".notbugs" / "ui.log"
    address = f"http://{'localhost' if host == '::1' else host}:{port}"
    print("notbugs: starting MLflow's pages, this takes some seconds", file=sys.stderr, flush=True)
    with as_interrupts(signal.SIGTERM, signal.SIGHUP), _server(project, uri, host, port, log) as server:
        _wait_until_up(server, address, log)
        print(f"MLflow: {_runs_page(address, experiment_name(root))} (Ctrl-C ends it)", flush=True)
        server.wait()
    if server.returncode > 0:
        raise ServeError(f"MLflow's server ended, see {log}")


def _check_address(host: str, port: int) -> None:
    if host not in _LOOPBACK:
        raise ServeError(f"--host {host}: only this machine is served; allowed: {', '.join(_LOOPBACK)}")
    if not 0 < port < 65536:
        raise ServeError(f"--port {port}: must be 1 to 65535")
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        text = (error.strerror or str(error)).partition(" (while")[0].lower()
        raise ServeError(f"port {port} cannot be used: {text}; choose another with --port") from None


@contextlib.contextmanager
def _server(project: Path, uri: str, host: str, port: int, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """MLflow's server as a child process; ended with the block, whatever ends it."""
    log.parent.mkdir(exist_ok=True)
    names = ",".join(f"{name},{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]"))
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--artifacts-destination", location.artifact_root(project).as_uri()]
    command += ["--host", host, "--port", str(port), "--workers", "1", "--allowed-hosts", names]
    command += ["--uvicorn-opts", "--log-level warning"]
    environment = {**os.environ, **PRIVATE, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=project,
            start_new_session=True,
        )
    try:
        yield server
    except KeyboardInterrupt:
        pass
    finally:
        _end(server)


def _end(server: "subprocess.Popen[bytes]") -> None:
    """Ask the server and its child to end, and insist after five seconds."""
    for request, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(server.pid, request)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(patience)
            return


def _wait_until_up(server: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            said = next((line for line in reversed(lines) if line.strip()), "it said nothing")
            raise ServeError(f"MLflow's server did not start: {said.strip()[:300]} (see {log})")
        try:
            _local.open(f"{address}/health", timeout=2).close()
            return
        except OSError:
            time.sleep(0.1)
    raise ServeError(f"MLflow's server did not start within {START_SECONDS:g} s, see {log}")


def _runs_page(address: str, experiment: str) -> str:
    """Address of the table of runs, in our view of it; MLflow's own first page is one on language models."""
    query = urllib.parse.urlencode({"experiment_name": experiment})
    try:
        with _local.open(f"{address}/api/2.0/mlflow/experiments/get-by-name?{query}", timeout=10) as answer:
            found = json.load(answer)["experiment"]
            page = f"{address}/#/experiments/{found['experiment_id']}/runs?workflowType=machine_learning"
    except (OSError, ValueError, KeyError):
        return address
    is_saved = any(tag.get("key") == view_tag(ALL) for tag in found.get("tags", []))
    return f"{page}&{view_query(ALL)}" if is_saved else page  # the user may have deleted it
