"""kill -9 in every kind of stage, right before a file gets its name; what comes after finishes with the same bytes."""

import json
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
import yaml

from projects import assert_same, contents, copy_of, environment, run

pytestmark = [pytest.mark.slow, pytest.mark.pipeline, pytest.mark.timeout(1800)]

KILLER = """
import json, os, pathlib, signal, sys
command, kills = " ".join(sys.argv[1:]), json.loads(os.environ["KILLS"])
def deadly(move):
    def moved(self, target):
        if command in kills and kills[command] in str(target):
            os.kill(0 if os.environ["KILL_ALL"] else os.getpid(), signal.SIGKILL)
        return move(self, target)
    return moved
pathlib.Path.replace = deadly(pathlib.Path.replace)
pathlib.Path.rename = deadly(pathlib.Path.rename)
if command.partition(" ")[0] in ("evaluate", "sweep", "report"):
    sys.path.append(os.environ["TESTS"])
    import warm
    warm.hurry()
"""
"""Python runs a module `sitecustomize` first: this one kills commands, or each and all above it (DVC too).

It begins a Python of its own for each, which hurries as those of the server `warm` do."""

KILLS = [
    ({"prepare": ("data/validation", "data/train")}, False),
    ({"train robust": ("seed-1.safetensors", "models/train/robust")}, True),
    ({"construct rand": ("manifest.json", "data/rand")}, False),
    ({"fit rand": ("full/source-0/seed-1.safetensors", "models/fit/rand")}, False),
    ({"evaluate": ("plots/accuracy_vs_eps.csv", "metrics/results.csv")}, True),
    (
        {
            "transfer": ("metrics/transfer.json", "metrics/transfer.json"),
            "inversion": ("plots/inversion", "metrics/inversion.json"),
            "diversity": ("metrics/diversity.json", "metrics/diversity.json"),
            "estimator": ("metrics/estimator.json", "metrics/estimator.json"),
            "planted": ("plots/planted", "metrics/planted.json"),
            "gaussian": ("metrics/gaussian.json", "metrics/gaussian.json"),
        },
        False,
    ),
    ({"features": ("metrics/features.json", "metrics/features.csv")}, False),
    ({"sweep small --replace": ("sweeps/small/study.json", "sweeps/small/trials.csv")}, True),
    ({"report": ("reports/report.html", "plots/figures")}, False),
]
"""For a `dvc repro` each: command -> the file before which it is killed, and what is deleted so that it runs;
whether DVC is killed too."""


def killer(folder: Path, kills: dict[str, str], everything: bool) -> dict[str, str]:
    """Environment of commands some of which are to be killed."""
    (folder / "sitecustomize.py").write_text(KILLER)
    return {
        "PYTHONPATH": f"{folder}:{environment()['PYTHONPATH']}",
        "KILLS": json.dumps(kills),
        "KILL_ALL": "yes" if everything else "",
        "TESTS": str(Path(__file__).parents[1]),
    }


def delete(project: Path, output: str) -> None:
    """Take an output away, and what DVC would restore it from."""
    path = project / output
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    for stage in yaml.safe_load((project / "dvc.lock").read_text())["stages"].values():
        for out in stage["outs"]:
            if out["path"] == output:
                kept = project / ".dvc" / "cache" / "files" / "md5" / out["md5"][:2] / out["md5"][2:]
                kept.unlink(missing_ok=True)


def test_a_killed_stage_started_again(finished_project: Path, tmp_path: Path) -> None:
    """Without DVC; the half-written folder of the killed process goes too."""
    copy = copy_of(finished_project, tmp_path)
    before = contents(copy)
    deadly = killer(tmp_path, {"construct rand": "data/rand."}, False)
    done = run(copy, "notbugs", "construct", "rand", check=False, **deadly)
    assert done.returncode == -signal.SIGKILL
    left = list((copy / "data").glob("rand.*.tmp"))
    assert len(left) == 1
    assert {name: found for name, found in contents(copy).items() if ".tmp/" not in name} == before  # the old one stays
    run(copy, "notbugs", "construct", "rand")
    assert not left[0].exists()
    assert_same(finished_project, copy)


def test_every_kind_of_stage_killed_under_dvc(finished_project: Path, tmp_path: Path) -> None:
    """Each `dvc repro` finishes what the one before left, and is killed in turn; the last is left in peace."""
    stages = yaml.safe_load((finished_project / "dvc.yaml").read_text())["stages"]
    # The project asks no question of its own; the runner of `science` is that of the built-in ones.
    assert {command.split()[0] for commands, _ in KILLS for command in commands} == set(stages) - {"science"}
    copy = copy_of(finished_project, tmp_path)
    for commands, everything in KILLS:
        for _, output in commands.values():
            delete(copy, output)
        deadly = killer(tmp_path, {command: at for command, (at, _) in commands.items()}, everything)
        done = run(copy, "dvc", "repro", "--keep-going", check=False, own_session=True, **deadly)
        if everything:
            assert done.returncode == -signal.SIGKILL, (commands, done.stdout, done.stderr)
            continue
        assert done.returncode not in (0, -signal.SIGKILL), (commands, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        for command in commands:
            assert f"failed to run: notbugs {command}, exited with -9" in done.stderr
    run(copy, "dvc", "repro")
    assert_same(finished_project, copy)
    assert "up to date" in run(copy, "dvc", "repro").stdout
    run(copy, "notbugs", "track")
    assert statuses(copy) <= {"FINISHED", "KILLED", "FAILED"}


def test_track_killed_and_started_again(finished_project: Path, tmp_path: Path) -> None:
    copy = copy_of(finished_project, tmp_path)
    for folder in ("mlruns", ".notbugs"):
        shutil.rmtree(copy / folder)
    (copy / "mlruns").mkdir()
    for runs_before_the_kill in (1, 5):
        with subprocess.Popen(["notbugs", "track"], cwd=copy, env=environment(), stderr=subprocess.DEVNULL) as track:
            while count_runs(copy) < runs_before_the_kill:
                assert track.poll() is None
                time.sleep(0.005)
            track.kill()
    run(copy, "notbugs", "track")
    assert statuses(copy) == {"FINISHED"}
    assert names(copy) == names(finished_project)
    assert "notbugs: tracking" not in run(copy, "notbugs", "track").stderr


def count_runs(project: Path) -> int:
    with suppress(sqlite3.OperationalError):  # not there yet, or locked
        return int(query(project, "SELECT count(*) FROM runs")[0][0])
    return 0


def statuses(project: Path) -> set[str]:
    return {row[0] for row in query(project, "SELECT status FROM runs WHERE lifecycle_stage = 'active'")}


def names(project: Path) -> list[str]:
    sql = "SELECT runs.name FROM runs JOIN tags USING (run_uuid) WHERE tags.key = 'pipeline.key' ORDER BY runs.name"
    return [row[0] for row in query(project, sql)]


def query(project: Path, sql: str) -> list[tuple]:
    with closing(sqlite3.connect(f"file:{project / 'mlruns' / 'mlflow.db'}?mode=ro", uri=True)) as database:
        return database.execute(sql).fetchall()
