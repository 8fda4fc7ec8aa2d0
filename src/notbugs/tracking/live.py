"""A run as a stage sees it: `live_run` and what can be told to it.

Telling is writing to a journal; see there why. This module imports neither MLflow nor torch.
"""

import csv
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import notbugs
from notbugs.runtime.dvc_lock import contents
from notbugs.runtime.nested import numbers
from notbugs.runtime.process import identity
from notbugs.tracking import location
from notbugs.tracking.description import live_models, live_params, run_params, run_tags
from notbugs.tracking.journal import PROCESS, Journal, new_journal, now
from notbugs.tracking.learning import Model, live_name, read_curves, rounded, shown_curves
from notbugs.tracking.measured import RESULTS, measured
from notbugs.tracking.shown import MOST, colour_tags, shown_metrics

_SENDER = (
    "import sys; sys.path.append(sys.argv[2]); from notbugs.tracking.sending import main; sys.exit(main(sys.argv[1]))"
)
DRAWN = 20
"""Curves of a stage's own that are drawn, besides learning curves; the rest of MOST is for what it measures."""
SendBy = Callable[[str, Mapping[str, str]], None]
"""(folder of a journal, variables) -> None: has the journal sent by somebody who has MLflow imported."""
_send_by: SendBy | None = None
_senders: list[subprocess.Popen[bytes]] = []
"""Senders that may outlive their run; kept so that they are not reported as forgotten, and reaped later."""


@dataclass(frozen=True)
class SharedRun:
    """A study's run, which all its sessions share, and from which the runs of its trials hang.

    Attributes:
        key: names the study among all there ever were.
        trials: "package.module:function" that gives the trials as `rebuilding.RecordedRun`s, called with the stage's
            folder, the study's name and its key, in another process and as often as need be.
        environment: variables that the function reads, such as a database's URL; they are written nowhere.
    """

    key: str
    trials: str
    environment: Mapping[str, str] = field(default_factory=dict)


def send_by(sender: SendBy) -> None:
    """From now on this process's journals are sent by others, not by processes of their own."""
    global _send_by
    _send_by = sender


class Run:
    """What a stage tells about itself while it runs. No method raises or waits for a server.

    Args:
        journal: where it is written; None where nothing is tracked.
        sender: the process that sends it, if it is one of this process.
        models: that are trained on everything, as far as they are known: whose learning curves can be drawn.
    """

    def __init__(
        self,
        journal: Journal | None,
        sender: "subprocess.Popen[bytes] | None" = None,
        models: Sequence[Model] = (),
    ) -> None:
        self._journal = journal
        self._sender = sender
        self._models = models
        self._metrics: set[str] = set()
        self._drawn: set[tuple[str, int]] = set()
        self._warned = False
        self._looked = time.monotonic()

    @property
    def label(self) -> str | None:
        """The run's journal, by which it is found in MLflow (tag `notbugs.journal`); None where nothing is tracked."""
        return None if self._journal is None else self._journal.label

    def curve(self, step: int, values: Mapping[str, float | None]) -> None:
        """A point on curves; what is None or not finite is left out.

        Of learning curves those of the first models are drawn, as `learning` says; of others the first DRAWN.

        Args:
            step: such as the epoch.
            values: curve -> value.
        """
        found: dict[str, float] = {}
        for curve, value in numbers(values).items():
            name = live_name(curve, self._models)
            if name is None or (name == curve and name not in self._metrics and self._has_drawn(found)):
                continue
            found[name] = value if name == curve else rounded(value)
        self._drawn |= {(name, int(step)) for name in found}
        self.metrics(found, step)
        self._look()

    def _has_drawn(self, more: Mapping[str, float]) -> bool:
        """Whether there is no room for another curve beside these."""
        return len(self._metrics | more.keys()) >= DRAWN

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Single numbers; nested mappings become dotted names, what is no finite number is left out.

        A run has no more than MOST of them, the first ones.
        """
        found: dict[str, float] = {}
        for name, value in numbers(values).items():
            if name in self._metrics or len(self._metrics) < MOST:
                self._metrics.add(name)
                found[name] = value
        if found:
            self._append("metrics", step=int(step), values=found)

    def curves_of(self, file: Path) -> None:
        """Points of a CSV of learning curves that were not drawn while the stage ran."""
        for _, step, values in shown_curves(read_curves(file)):
            self.metrics({name: value for name, value in values.items() if (name, step) not in self._drawn}, step)

    def measured(self, root: Path, params: Mapping[str, Any]) -> None:
        """What metrics/results.csv says of every model, for those whom it is about."""
        found = measured(root, params)
        if found.models:
            self._append("measured", **found.as_json)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """A file or folder to keep with the run, as it is now.

        Args:
            folder: within the run's artifacts.
        """
        self._keep("artifact", path, folder=folder)

    def model(self, path: Path) -> None:
        """Classifiers to keep with the run: a .safetensors file, or a folder of them, with .json beside them.

        Each becomes an MLflow model with a signature, without pickle: `mlflow.pyfunc.load_model(...).predict`
        takes images (N, C, H, W) in [0, 1] and gives logits (N, classes).
        """
        place = path.absolute()
        if self._journal is not None and place.is_relative_to(self._journal.header["root"]):
            place = place.relative_to(self._journal.header["root"])
        self._keep("model", path, name=path.stem, place=place.as_posix())

    def _keep(self, kind: str, path: Path, **values: Any) -> None:
        if self._journal is None:
            return
        try:
            kept = self._journal.keep(path)
        except OSError as error:
            self._warn(f"{path} is not kept with the run: {error.strerror or error}")
            return
        self._append(kind, path=kept, **values)

    def _append(self, kind: str, **values: Any) -> None:
        if self._journal is None:
            return
        try:
            self._journal.append(kind, **values)
        except (OSError, ValueError, TypeError) as error:
            self._warn(f"this run is no longer tracked: {error}")
            self._journal = None

    def _look(self, *, at_once: bool = False) -> None:
        """See once a second whether the sending process is in trouble, and say so once."""
        if self._journal is None or self._warned or (time.monotonic() - self._looked < 1 and not at_once):
            return
        self._looked = time.monotonic()
        error = self._journal.state.get("error")
        if error:
            self._warn(f"{error}; `notbugs track` adds this run later")
        elif self._sender is not None and self._sender.poll() not in (None, 0):
            self._warn(f"the tracking process failed, see {self._journal.folder / 'sender.log'}")

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            print(f"notbugs: tracking: {' '.join(text.split())}", file=sys.stderr, flush=True)

    def _end(self, status: str, error: str | None, outputs: Mapping[str, Any], wait_seconds: float) -> None:
        self._append("end", status=status, error=error, outputs=dict(outputs))
        deadline = time.monotonic() + wait_seconds
        while self._journal is not None and time.monotonic() < deadline and not self._warned:
            state = self._journal.state
            if self._sender is None or self._sender.poll() is not None or state.get("phase") != "open":
                break  # sent, or in trouble, or still starting: then it goes on by itself
            time.sleep(0.02)
        self._look(at_once=True)


@contextmanager
def live_run(
    stage: str,
    name: str | None,
    *,
    root: Path,
    experiment: str,
    params: Mapping[str, Any],
    seed: int,
    inputs: Sequence[Path],
    outputs: Sequence[Path],
    metrics_file: Path | None,
    wait_seconds: float = 3.0,
    study: SharedRun | None = None,
) -> Iterator[Run]:
    """Track one execution of a stage as one MLflow run, live.

    The run ends FINISHED, FAILED if the block raises, KILLED if it is interrupted or its process dies.
    Nothing that happens to tracking reaches the stage: one line of warning, and it goes on.

    Args:
        stage, name: such as "construct", "rand".
        root: project folder that the stage works in.
        experiment: MLflow experiment that the run is grouped under.
        params: nested settings; `shown.shown_params` says which the run has, and how they are called.
        seed: tagged.
        inputs: datasets and models read.
        outputs: all files and folders written.
        metrics_file: JSON that `shown.shown_metrics` takes the run's metrics from once the block ended well.
        wait_seconds: how long to wait at the end for a sender that is sending; one that is still starting, or
            stuck, is left to finish by itself.
        study: for the run of a study.
    """
    journal, sender = None, None
    own: dict[str, Any] = {}
    if _is_wanted():
        try:
            project = location.anchor(root)
            own = live_params(stage, name, params, inputs)
            tags = {**run_tags(stage, name, seed), **colour_tags(own), PROCESS: identity()}
            if os.environ.get("DVC_EXP_NAME"):
                tags["dvc.experiment"] = os.environ["DVC_EXP_NAME"]
            header = {
                "name": name,
                "address": f"{stage}@{name}" if name else stage,
                "project": str(project),
                "root": str(root.absolute()),
                "store": location.store_name(project, location.tracking_uri(project)),
                "experiment": experiment,
                "params": run_params(own),
                "metrics_file": metrics_file.name if metrics_file else "",
                "tags": tags,
                "inputs": [str(path.absolute()) for path in inputs],
                "started": now(),
                "pid": os.getpid(),
                "study": {"key": study.key, "trials": study.trials} if study else None,
            }
            journal = new_journal(location.work_folder(project), header)
            sender = _start_sender(journal, study.environment if study else {})
        except Exception as error:  # whatever it is, the stage goes on
            print(f"notbugs: tracking: this run is not tracked: {error}", file=sys.stderr, flush=True)
    run = Run(journal, sender, live_models(own, inputs))
    try:
        yield run
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt)
        text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        run._end("KILLED" if killed else "FAILED", text, {}, wait_seconds)
        raise
    if journal is not None:
        if metrics_file is not None:
            with suppress(OSError, ValueError, AttributeError):  # none there, or none of a mapping
                metrics = json.loads(metrics_file.read_text(encoding="utf-8"))
                run.metrics(shown_metrics(stage, metrics, journal.header["params"]))
                run.artifact(metrics_file)
        for file in outputs:
            with suppress(OSError, ValueError, csv.Error):  # none there, or a table of another kind
                if file.suffix == ".csv":
                    run.curves_of(file)
        if root / RESULTS in outputs:
            with suppress(OSError, ValueError, KeyError, csv.Error):
                run.measured(root, journal.header["params"])
        made = {path: asdict(there) for path, there in contents(root, outputs).items()}  # finds the run in dvc.lock
        run._end("FINISHED", None, made, wait_seconds)


def _is_wanted() -> bool:
    if os.environ.get(location.MODE_VARIABLE, "").lower() in ("off", "0", "false", "no"):
        return False
    if os.environ.get("RANK", "0") != "0":
        return False  # torchrun: the first process speaks for all
    if importlib.util.find_spec("mlflow") is None:
        print("notbugs: tracking: MLflow is not installed, this run is not tracked", file=sys.stderr)
        return False
    return True


def _start_sender(journal: Journal, environment: Mapping[str, str]) -> "subprocess.Popen[bytes] | None":
    """Start the process that sends the journal; in its own session, so that Ctrl-C only ends the stage."""
    if _send_by is not None:
        _send_by(str(journal.folder), environment)
        return None
    _senders[:] = [sender for sender in _senders if sender.poll() is None]
    source = str(Path(notbugs.__file__).parents[1])
    with (journal.folder / "sender.log").open("wb") as log:
        sender = subprocess.Popen(
            [sys.executable, "-P", "-c", _SENDER, str(journal.folder), source],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
            cwd=journal.header["project"],
            start_new_session=True,
        )
    _senders.append(sender)
    return sender
