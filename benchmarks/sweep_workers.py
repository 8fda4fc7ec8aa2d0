"""One worker and two on PostgreSQL: the same study, timed, and compared point by point.

    python benchmarks/sweep_workers.py postgresql://USER@HOST:PORT/DATABASE

Needs a project whose source models are there (`dvc repro train`), and a database without a study `speed`, which is
made and deleted. The workers are `notbugs sweep worker`, each with one thread; start-up included.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import yaml

from notbugs.pipeline.running.context import open_project
from notbugs.sweeps.session import run
from notbugs.sweeps.storage import open_storage, storage_url

ROOT = Path(__file__).parents[1]
STUDY = {"kinds": ["rand", "det"], "eps": [0.6, 0.8, 1.1, 1.4], "num_steps": [30, 40, 50, 60], "seeds": [0, 1]}


def timed(url: str, workers: int) -> tuple[float, bytes]:
    """Seconds that so many workers take, and trials.csv."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("data", "models", "dvc.yaml"):
            source = ROOT / name
            shutil.copytree(source, root / name) if source.is_dir() else shutil.copy(source, root)
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        (root / "params.yaml").write_text(yaml.safe_dump({**params, "num_threads": 1, "sweep": {"speed": STUDY}}))
        threads = {"OMP_NUM_THREADS": "1", "NOTBUGS_SWEEP_STORAGE": url, "NOTBUGS_TRACKING": "off"}
        command = [sys.executable, "-m", "notbugs", "sweep", "worker", "speed"]
        started = time.monotonic()
        running = [subprocess.Popen(command, cwd=root, env={**os.environ, **threads}) for _ in range(workers)]
        codes = [process.wait() for process in running]
        seconds = time.monotonic() - started
        assert not any(codes), "a worker failed"
        run(open_project(root), "speed", url=url, jobs=1)
        with open_storage(storage_url(root, url)) as storage:
            optuna.delete_study(study_name="speed", storage=storage)
        return seconds, (root / "sweeps/speed/trials.csv").read_bytes()


def main(url: str) -> None:
    """Print the times, the ratio, and whether the results are the same."""
    os.environ["NOTBUGS_TRACKING"] = "off"
    found = {workers: timed(url, workers) for workers in (1, 2)}
    for workers, (seconds, _) in found.items():
        print(f"{workers} worker{'s' * (workers > 1)}: {seconds:.1f} s")
    print(f"speed-up: {found[1][0] / found[2][0]:.2f}; same results: {found[1][1] == found[2][1]}")


if __name__ == "__main__":
    main(sys.argv[1])
