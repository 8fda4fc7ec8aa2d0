"""The process that sends, for real: it imports MLflow, so each of these tests takes seconds."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from tracking_tools import Runs, silent_server, stage, the_journal, wait_for

from notbugs.tracking import live, sending
from notbugs.tracking.reconcile import track

pytestmark = pytest.mark.usefixtures("warm_python")


def test_a_stage_is_seen_live_with_all_that_belongs_to_it(
    project: Path, runs: Runs, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")  # at once, not after half a minute
    data = project / "data" / "train"
    data.mkdir(parents=True)
    (data / "manifest.json").write_text(json.dumps({"name": "D_train", "num_examples": 5, "image_shape": [1, 8, 8]}))
    metrics = project / "metrics.json"
    with stage(project, inputs=[data], outputs=[metrics], metrics_file=metrics, wait_seconds=60) as run:
        run.curve(1, {"loss": 0.5})
        wait_for(lambda: runs.all() and "loss" in runs.one().data.metrics)
        live_run = runs.one()
        assert live_run.info.status == "RUNNING"
        wait_for(lambda: "system/cpu_utilization_percentage" in runs.one().data.metrics)
        metrics.write_text('{"full": {"mean": {"validation_accuracy": 0.75}}}')
    assert the_journal(project).done  # the sender was ready, so the end was waited for
    ended = runs.one()
    assert ended.info.status == "FINISHED"
    assert ended.data.metrics["validation_accuracy"] == 0.75
    assert "| `validation_accuracy` | share of D's validation images" in ended.data.tags["mlflow.note.content"]
    assert ended.data.metrics["system/process_memory_usage_megabytes"] > 1
    assert runs.artifacts(ended) == ["metrics.json"]
    (dataset,) = ended.inputs.dataset_inputs
    assert dataset.dataset.name == "D_train"
    assert dataset.dataset.digest == ended.data.tags["dvc.dep.data/train"]
    assert dataset.dataset.digest.endswith(".dir")
    assert json.loads(dataset.dataset.profile)["num_examples"] == 5
    assert sorted(path.name for path in the_journal(project).folder.iterdir()) == ["lock", "run.json", "state.json"]
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")


@pytest.mark.parametrize("answers", [False, True], ids=["dead", "hanging"])
def test_a_server_that_does_not_answer_costs_a_line_and_no_time(
    project: Path, answers: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with silent_server(answers=answers) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        started = time.monotonic()
        with stage(project) as run:
            assert time.monotonic() - started < 1.5
            wait_for(lambda: the_journal(project).state.get("phase") == "failed")
            for epoch in range(20):
                run.curve(epoch, {"loss": 0.5})
            before_end = time.monotonic()
        assert time.monotonic() - before_end < 1.5
    reason = "no answer within 2 s" if answers else "connection refused"
    assert capsys.readouterr().err == (
        f"notbugs: tracking: MLflow at http://127.0.0.1:{port}: {reason}; `notbugs track` adds this run later\n"
    )
    _end_senders()


def test_a_short_stage_does_not_wait_for_a_hanging_server(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_server(answers=True) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        started = time.monotonic()
        with stage(project):
            pass
        assert time.monotonic() - started < 1.5
    _end_senders()


class _MortalServer(BaseHTTPRequestHandler):
    """As much of MLflow's REST API as starting a run takes; then it answers no more, or is gone."""

    seen: list[str]
    hang: threading.Event
    dies: bool

    def do_GET(self) -> None:
        if "experiments/get-by-name" in self.path:
            self._answer({"experiment": {"experiment_id": "5", "name": "test", "lifecycle_stage": "active"}})
        else:
            self._answer({})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length).decode()
        if "loss" in body:
            self.seen.append(self.path)
            if self.dies:
                self.server.socket.close()
                self.close_connection = True
                return
            self.hang.wait(60)
        info = {"run_id": "a" * 32, "experiment_id": "5", "status": "RUNNING", "start_time": 1, "artifact_uri": "x"}
        self._answer({"run": {"info": {**info, "lifecycle_stage": "active"}, "data": {}}})

    def _answer(self, value: object) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *args: object) -> None:
        pass


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the sender hung up


@pytest.mark.parametrize("dies", [False, True], ids=["hangs", "dies"])
def test_a_server_that_fails_in_mid_run_stalls_nothing(
    project: Path, dies: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []
    hang = threading.Event()
    handler = type("Handler", (_MortalServer,), {"seen": seen, "hang": hang, "dies": dies})
    server = _QuietServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with stage(project, wait_seconds=0.5) as run:
        slowest = 0.0
        run.curve(0, {"loss": 1.0})
        wait_for(lambda: seen)
        while the_journal(project).state.get("phase") != "failed":
            before = time.monotonic()
            run.curve(1, {"loss": 0.5})
            slowest = max(slowest, time.monotonic() - before)
            time.sleep(0.02)
        before_end = time.monotonic()
    assert slowest < 0.9
    assert time.monotonic() - before_end < 1.5
    hang.set()
    server.shutdown()
    server.server_close()
    thread.join()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"notbugs: tracking: MLflow at http://127.0.0.1:{server.server_port}: ")
    assert not the_journal(project).done
    _end_senders()


def test_a_database_locked_by_another_process_stalls_nothing(
    project: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(project / "mlruns" / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        with stage(project) as run:
            run.curve(1, {"loss": 0.5})
        assert time.monotonic() - started < 4
        wait_for(lambda: the_journal(project).state.get("phase") == "starting")
        other.execute("ROLLBACK")
    wait_for(lambda: the_journal(project).done)
    assert runs.curve(runs.one(), "loss") == [(1, 0.5)]
    assert capsys.readouterr().err == ""


def long_stage(project: Path, work: str = "") -> list[str]:
    """Command of a stage that does its work, says so with the line "on", and then sleeps."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; from tracking_tools import stage\n"
        "with stage(Path(sys.argv[1])) as run:\n"
        f"    {work}print('on', flush=True); time.sleep(600)\n"
    )
    return [sys.executable, "-c", code, str(project), str(Path(__file__).parent)]


def test_a_killed_stage_is_closed_by_its_sender(project: Path, runs: Runs) -> None:
    arguments = long_stage(project, "run.curve(1, {'loss': 0.5}); ")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "on\n"
        wait_for(lambda: the_journal(project).state.get("phase"))
        child.kill()
    wait_for(lambda: the_journal(project).done)
    run = runs.one()
    assert run.info.status == "KILLED"
    assert runs.curve(run, "loss") == [(1, 0.5)]
    assert sorted(run.data.metrics) == ["loss"]  # nothing of the machine in a run of seconds
    assert track(project).changed is False


@pytest.mark.parametrize(("asked", "measured"), [("", False), ("true", True), ("false", False)])
def test_what_the_machine_does_is_measured_in_long_runs(
    project: Path, asked: str, measured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SYSTEM_SECONDS, or at once or never by MLflow's own variable; a run that has ended is not looked at."""
    seen: list[tuple[int, int]] = []

    class Store:
        """Says when it was asked."""

        @contextmanager
        def system_metrics(self, run_id: str, pid: int) -> Iterator[None]:
            seen.append((looks, pid))
            yield

    looks = 0

    def send(*_: object) -> bool:
        nonlocal looks
        looks += 1
        return looks > 5

    monkeypatch.setattr(live, "_start_sender", lambda *arguments: None)
    monkeypatch.setattr(sending, "send", send)
    monkeypatch.setattr(sending, "POLL_SECONDS", 0.01)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", asked)
    with stage(project):
        the_journal(project).set_state(run_id="1" * 32)
        assert sending._Sender(the_journal(project))._follow(Store())  # type: ignore[arg-type]
        assert seen == ([(1, os.getpid())] if measured else [])
        if not measured:
            monkeypatch.setattr(sending, "SYSTEM_SECONDS", 0.0)
            looks = 0
            assert sending._Sender(the_journal(project))._follow(Store())  # type: ignore[arg-type]
            assert seen == ([] if asked else [(1, os.getpid())])


def test_ctrl_c_ends_the_stage_and_not_the_sender(project: Path) -> None:
    with subprocess.Popen(
        long_stage(project), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "on\n"
        journal = the_journal(project)
        wait_for(lambda: journal.state.get("phase"))
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to all of the group
        _, errors = child.communicate()
    assert errors.rstrip().endswith("KeyboardInterrupt")
    (end,) = (event for _, event in journal.events() if event["kind"] == "end")
    assert end["status"] == "KILLED"
    with journal.locked() as mine:
        assert not mine
    folder = str(journal.folder)
    (sender,) = (process for process in psutil.process_iter(["cmdline"]) if folder in (process.info["cmdline"] or []))
    sender.kill()


def test_the_sender_gives_up_some_time_after_the_stage(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_start_sender", lambda *arguments: None)
    monkeypatch.setattr(sending, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(sending, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(sending.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sending.os, "nice", lambda _: 0)
    monkeypatch.setattr(sending._Sender, "_watch", lambda self: None)
    with silent_server(answers=False) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        with stage(project) as run:
            run.curve(1, {"loss": 0.5})
        started = time.monotonic()
        assert sending.main(str(the_journal(project).folder)) == 0
    assert 0.5 <= time.monotonic() - started < 5
    assert the_journal(project).state["error"] == f"MLflow at http://127.0.0.1:{port}: connection refused"
    assert not the_journal(project).done


def _end_senders() -> None:
    """End senders that would go on trying for a minute."""
    for process in live._senders:
        process.kill()
        process.wait()
    live._senders.clear()
