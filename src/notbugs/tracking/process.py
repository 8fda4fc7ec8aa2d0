"""Which process a run belongs to, whether it still lives, and what the machine does meanwhile."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

PROCESS = "notbugs.process"
"""Tag of a run, and of a journal, that names its process."""
_SAME_START = 5.0
"""Seconds by which two readings of one process's start may differ (the clock may have been set)."""


def identity() -> str:
    """What names this process beyond doubt: number, start, machine, boot; JSON."""
    started = round(psutil.Process().create_time(), 2)
    return json.dumps({"pid": os.getpid(), "started": started, "host": _host(), "boot": _boot()})


def alive(identity: str | None) -> bool | None:
    """Whether the process named by `identity()` lives; None if it cannot be told (another machine, no identity)."""
    try:
        named = json.loads(identity or "{}")
        if named.get("host") != _host():
            return None
        if named.get("boot") != _boot():
            return False
        process = psutil.Process(int(named["pid"]))
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - float(named["started"])) < _SAME_START
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


@contextmanager
def as_interrupts(*signals: signal.Signals, once: bool = False) -> Iterator[None]:
    """Treat requests to end (SIGTERM, a closed terminal) like Ctrl-C while the block runs.

    Args:
        signals: which ones.
        once: ignore all of them after the first.
    """

    def stop(*_: object) -> None:
        """Interrupt the block."""
        if once:
            for number in signals:
                signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _host() -> str:
    """Machine and, in a container, its own numbering of processes."""
    try:
        return f"{socket.gethostname()}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


class SystemMonitor(threading.Thread):
    """Takes down processor, memory, disk, network and GPU use, under the names of `mlflow.system_metrics`.

    MLflow's own monitor cannot start before MLflow is imported, by which time a short stage is over; and it
    talks to the server itself, where this only reports.

    Args:
        pid: the stage's process, whose own memory is taken down too.
        report: called with the values of each sample and its number.
    """

    def __init__(self, pid: int, report: Callable[[int, dict[str, float]], None]) -> None:
        super().__init__(name="system metrics", daemon=True)
        self._process = psutil.Process(pid)
        self._report = report
        self._stop_asked = threading.Event()
        self._network = psutil.net_io_counters()
        self._gpus = _gpus()

    def stop(self) -> None:
        """Ask for the end; does not wait."""
        self._stop_asked.set()

    def run(self) -> None:
        """Sample every second at first, every ten seconds in a long run (or as MLflow's variable says)."""
        asked = os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "")
        fixed = float(asked) if asked.replace(".", "", 1).isdigit() and float(asked) > 0 else None
        started, step = time.monotonic(), 0
        psutil.cpu_percent()
        while not self._stop_asked.wait(fixed or min(10.0, max(1.0, (time.monotonic() - started) / 20))):
            try:
                self._report(step, self.sample())
            except (OSError, psutil.Error):
                return
            step += 1

    def sample(self) -> dict[str, float]:
        """One sample; memory in megabytes, use in percent, traffic since the start."""
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(os.sep), psutil.net_io_counters()
        sent = network.bytes_sent - self._network.bytes_sent
        received = network.bytes_recv - self._network.bytes_recv
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.used / memory.total * 100,
            "process_memory_usage_megabytes": self._process.memory_info().rss / 1e6,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
            "network_receive_megabytes": received / 1e6,
            "network_transmit_megabytes": sent / 1e6,
            **_gpu_sample(self._gpus),
        }
        return {f"system/{key}": round(value, 2) for key, value in values.items()}


def _gpus() -> list[Any]:
    """Handles of the NVIDIA GPUs; none without `nvidia-ml-py` or without a GPU."""
    try:
        import pynvml  # type: ignore[import-not-found]

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # the library's errors have no common, importable type; no GPU is no trouble here
        return []


def _gpu_sample(gpus: list[Any]) -> dict[str, float]:
    values: dict[str, float] = {}
    if not gpus:
        return values
    import pynvml

    for i, gpu in enumerate(gpus):
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
            values[f"gpu_{i}_memory_usage_megabytes"] = memory.used / 1e6
            values[f"gpu_{i}_memory_usage_percentage"] = memory.used / memory.total * 100
            values[f"gpu_{i}_utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
            values[f"gpu_{i}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
        except pynvml.NVMLError:
            continue
    return values
