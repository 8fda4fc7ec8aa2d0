"""DVC's run cache, which restores stages that ran before: completed, and sent to a remote with all that it restores.

DVC keeps no runs of stages with tables in Git (`cache: false`) that it does not know as metrics or plots: train, fit,
evaluate and others, so that going back to earlier settings would train again. And `dvc push --run-cache` sends the list
of runs, and of their outputs only what the present dvc.lock keeps in DVC: neither what Git holds nor the outputs of
other settings. Without these no stage is restored elsewhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from notbugs.runtime.errors import UserError
from notbugs.runtime.files import sha256, write_text

KEPT = Path(".notbugs") / "runs_kept"
"""Holds the SHA-256 of the dvc.lock whose runs were put into the run cache last."""


class RunCacheError(UserError):
    """DVC's run cache cannot be written, the remote is not there, or something cannot be sent to it."""


def keep_runs(root: Path) -> None:
    """Put the runs of the present settings, where the workspace is as dvc.lock says, into the local run cache.

    Does nothing where that was done for this dvc.lock already.

    Raises: RunCacheError in one line.
    """
    lock, kept = root / "dvc.lock", root / KEPT
    if not lock.exists():
        return
    digest = sha256(lock)
    if kept.exists() and kept.read_text(encoding="utf-8") == digest:
        return
    with _repository(root, "the run cache is not complete") as repo:
        complete = _save(repo)
    if complete:
        write_text(kept, digest)


def push_runs(root: Path, remote: str | None = None) -> str:
    """Send the run cache and the outputs of every run in it that are in the local cache.

    Runs of the present settings, where the workspace is as dvc.lock says, are put into the run cache first. Runs
    whose outputs `dvc gc` removed keep nobody from sending the others.

    Args:
        remote: its name; None takes DVC's default.
    Returns: how many were sent, in a line; gone are those whose outputs are not all in the local cache any more.
    Raises: RunCacheError in one line.
    """
    with _repository(root, "not everything was sent") as repo:
        _save(repo)
        runs = repo.stage_cache.push(remote)
        whole = [run for run in runs if _is_whole(repo, *run)]
        found = repo.stage_cache.get_used_objs(whole).values()
        sent = repo.cloud.push(set().union(*found), remote=remote)
    if sent.failed:
        raise RunCacheError(f"notbugs push: {len(sent.failed)} objects could not be sent; again later")
    text, gone = f"{len(whole)} runs sent", len(runs) - len(whole)
    if gone:
        text += f"; {gone} others are restored only where a remote has their outputs: the local cache has not"
    return text


def _is_whole(repo: Any, key: str, value: str) -> bool:
    """Whether the local cache holds all outputs of a run in the run cache."""
    entry = repo.stage_cache._load_cache(key, value)
    return entry is not None and bool(repo.stage_cache._create_stage(entry).outs_cached())


@contextmanager
def _repository(root: Path, otherwise: str) -> Iterator[Any]:
    """DVC's repository; its errors in one line that ends with what is the matter then."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            yield repo
    except DvcException as error:
        raise RunCacheError(f"DVC: {' '.join(str(error).split())[:300]} ({otherwise})") from None


def _save(repo: Any) -> bool:
    """Put what is as dvc.lock says into the run cache; whether that is all of it."""
    with repo.lock:
        stages = [stage for stage in repo.index.stages if not stage.always_changed]
        finished = [stage for stage in stages if not stage.changed()]
        for stage in finished:
            repo.stage_cache.save(stage)
        return len(finished) == len(stages)
