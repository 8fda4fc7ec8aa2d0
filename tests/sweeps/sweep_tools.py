"""What the tests of sweeps share: tiny settings, and a real PostgreSQL server."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tiny import ATTACK, CONSTRUCT, EVALUATE, SHARED, TRAIN

ONE_SEED = {**TRAIN, "seeds": [0]}
TWO_SEEDS = {**TRAIN, "seeds": [0, 1]}
PARAMS: dict[str, Any] = {
    **SHARED,
    "data": {**SHARED["data"], "max_train": 240},
    "train": {"standard": TWO_SEEDS, "robust": {**TWO_SEEDS, "attack": {**ATTACK, "step_size": 0.3}}},
    "construct": {
        "robust": {**CONSTRUCT["robust"], "num_steps": 4},
        "rand": CONSTRUCT["rand"],
        "det": CONSTRUCT["det"],
    },
    "fit": {name: {**ONE_SEED, "still_y": False} for name in ("robust", "rand", "det")},
    "evaluate": {**EVALUATE, "suite_seeds": 0},  # a trial is measured by PGD alone
    "sweep": {"small": {"kinds": ["rand", "det"], "eps": [0.5, 1.0], "num_steps": [1, 3], "seeds": [0, 1]}},
    "report": {"grid_examples": 3},
}
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").is_dir() else []


def set_params(root: Path, **sections: Any) -> None:
    """Replace sections of params.yaml."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump({**params, **sections}, sort_keys=False))


@dataclass
class Postgres:
    """A server of PostgreSQL in a temporary folder, on a port of loopback."""

    folder: Path
    binaries: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://notbugs@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        settings = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories='' -c fsync=off"
        self.run("pg_ctl", "-D", "data", "-l", "log", "-w", "-t", "60", "-o", settings, "start")

    def stop(self, how: str = "immediate") -> None:
        """End it; `immediate` is like a crash: open connections are cut, nothing is tidied up."""
        self.run("pg_ctl", "-D", "data", "-m", how, "-w", "stop")

    def run(self, *command: str) -> None:
        subprocess.run(
            [*as_nobody(), str(self.binaries / command[0]), *command[1:]],
            cwd=self.folder,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def as_nobody() -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
