"""Running a stage in several processes: the param `processes`, or `torchrun -m notbugs ...` by hand."""

import logging
import os
import shutil
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from notbugs.pipeline.running.context import Context
from notbugs.runtime.distribution import process_group, started_by_torchrun
from notbugs.runtime.errors import UserError
from notbugs.runtime.files import write_json

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

LAUNCHED = "NOTBUGS_LAUNCHED"
"""Variable by which a process knows that `launch` started it and will speak of its end."""
TOLD = (1, 2)
"""Exit codes of a UserError: the process said all that there is to say."""
SOFTWARE = 70
"""Exit code of a process that failed by anything else (EX_SOFTWARE)."""


class ProcessError(UserError):
    """One of several processes failed, and so all ended."""


def in_processes(project: Context, work: Callable[[], None], *command: str) -> None:
    """Do the work of `notbugs COMMAND` in as many processes as `processes` says: be one of them, or start them."""
    if started_by_torchrun():
        _be_one(work, project)
    elif project.runtime.processes > 1:
        launch(project, *command)
    else:
        work()


def launch(project: Context, *command: str) -> None:
    """Run `notbugs COMMAND` in several processes on this machine, as torchrun does, and wait for them.

    Raises: ProcessError, in one line, if one of them fails; the others are ended then. What all of them printed
        besides is under .notbugs/processes.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    count, title = project.runtime.processes, " ".join(command)
    logs = project.root / ".notbugs" / "processes" / "-".join(command)
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the error below says it in one line
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=dict.fromkeys(range(1, count), Std.ALL)),
    )
    os.environ[LAUNCHED] = str(os.getpid())
    try:
        elastic_launch(config, sys.executable)("-m", "notbugs", *command)
    except ChildFailedError as error:
        raise _explained(error.failures, title, count, str(logs.relative_to(project.root))) from None
    except SignalException:
        raise KeyboardInterrupt from None
    finally:
        del os.environ[LAUNCHED]
    shutil.rmtree(logs, ignore_errors=True)


def _explained(failures: "Mapping[int, ProcessFailure]", title: str, count: int, logs: str) -> ProcessError:
    """What is to be said of failed processes: the one that failed by itself, not those that lost it or were ended."""

    def order(rank: int) -> tuple[int, int]:
        """First what something else killed, then what said why, then the rest; the earlier one of equals."""
        code = failures[rank].exitcode
        return (0 if code < 0 and code != -signal.SIGTERM else 1 if code in TOLD else 2, failures[rank].timestamp)

    rank = min(failures, key=order)
    failure = failures[rank]
    if failure.exitcode in TOLD:
        error = ProcessError(str(failure.message))
        error.exit_code = failure.exitcode
        return error
    what = f"was killed ({failure.signal_name()})"
    if failure.exitcode >= 0:
        what = f"failed: {failure.message}; see {logs}"
    return ProcessError(f"{title}: process {rank} of {count} {what}; what was done is kept: run it again to go on")


def _be_one(stage: Callable[[], None], project: Context) -> None:
    """Run a stage as one of several processes.

    Started by `launch`, it writes a failure down for it and prints nothing; and it does not outlive it.
    """
    if LAUNCHED not in os.environ:
        with process_group(project.device):
            stage()
        return
    _end_with(int(os.environ[LAUNCHED]))
    try:
        with process_group(project.device):
            stage()
    except Exception as error:
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        told = {
            "message": " ".join(message.split()),
            "timestamp": int(time.time()),
            "traceback": traceback.format_exc().splitlines(),
        }
        write_json(Path(os.environ["TORCHELASTIC_ERROR_FILE"]), told)
        sys.stderr.flush()
        os._exit(error.exit_code if isinstance(error, UserError) else SOFTWARE)  # others may hang: wait for none


def _end_with(parent: int) -> None:
    """End this process when its parent has gone: killed, it could not say so."""

    def watch() -> None:
        """Look twice a second whether the parent is still there."""
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(SOFTWARE)

    threading.Thread(target=watch, daemon=True).start()
