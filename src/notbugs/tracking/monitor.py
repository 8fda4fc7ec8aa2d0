"""What the machine does while a stage runs."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil  # type: ignore[import-untyped]


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
