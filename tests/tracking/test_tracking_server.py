import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from tracking_tools import process_gone, stage, wait_for

from notbugs.tracking.reconcile import track
from notbugs.tracking.server import ServeError, serve

COMMAND = (
    "import sys; from pathlib import Path; from notbugs.tracking.server import serve\n"
    "serve(Path(sys.argv[1]), int(sys.argv[2]))"
)
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def sockets(pids: list[int]) -> list[Any]:
    """Sockets of processes that listen to the network."""
    found = [socket for pid in pids for socket in psutil.Process(pid).net_connections("inet")]
    return [socket for socket in found if socket.status == psutil.CONN_LISTEN]


@pytest.mark.usefixtures("no_sender")
def test_pages_of_the_runs_on_this_machine_only(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with stage(project) as run:
        run.curve(1, {"loss": 0.5})
    (project / "params.yaml").write_text("experiment: test\n")
    assert track(project).sent == 1
    port = free_port()
    arguments = [sys.executable, "-c", COMMAND, str(project), str(port)]
    server = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    address = f"http://127.0.0.1:{port}"
    page = f"{address}/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=notbugs-runs"
    assert line == f"MLflow: {page} (Ctrl-C ends it)\n"
    with pytest.raises(ServeError, match=rf"port {port} cannot be used: address already in use; .* --port"):
        serve(project, port)
    body = json.dumps({"experiment_ids": ["1"]}).encode()
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
    )
    with _open(request, timeout=30) as answer:
        (found,) = json.load(answer)["runs"]
    assert found["info"]["run_name"] == "fit@rand"
    assert {metric["key"]: metric["value"] for metric in found["data"]["metrics"]} == {"loss": 0.5}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"localhost:{port}")  # as people type it
    with stage(project, "det") as run:
        run.curve(1, {"loss": 0.25})
    assert track(project).sent == 1
    assert capsys.readouterr().out == ""  # MLflow would say where to view the run
    for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "127.0.0.1:1"):
        for page in ("/", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=test"):
            with pytest.raises(urllib.error.HTTPError, match="403") as refused:
                _open(urllib.request.Request(f"{address}{page}", headers={"Host": host}), timeout=30)
            refused.value.close()
    listening = children(server.pid)
    assert {place.laddr[:2] for place in sockets([server.pid, *listening])} == {("127.0.0.1", port)}
    server.send_signal(signal.SIGINT)
    _, errors = server.communicate(timeout=60)
    assert server.returncode == 0
    assert "Traceback" not in errors
    assert [text.partition(": ")[0] for text in errors.splitlines()] == ["notbugs"] * 2
    wait_for(lambda: all(process_gone(child) for child in listening), 20)


def test_only_this_machine_can_be_served(project: Path) -> None:
    with pytest.raises(ServeError, match=r"--host 0\.0\.0\.0: only this machine is served; allowed: 127\.0\.0\.1"):
        serve(project, 5000, "0.0.0.0")
    with pytest.raises(ServeError, match="--port 70000: must be 1 to 65535"):
        serve(project, 70000)


def test_a_server_of_the_users_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:secret@127.0.0.1:{free_port()}")
    serve(project, 5000)
    output = capsys.readouterr()
    assert output.out.startswith("MLflow: http://ann:***@127.0.0.1:")
    assert "connection refused" in output.err
    assert "secret" not in output.out + output.err


def test_a_server_that_does_not_start_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = project / "python"
    script.write_text("#!/bin/sh\necho 'some lines'\necho 'the last one says why'\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr("notbugs.tracking.server.sys.executable", str(script))
    with pytest.raises(ServeError, match=r"MLflow's server did not start: the last one says why \(see .*ui\.log\)"):
        serve(project, free_port())
