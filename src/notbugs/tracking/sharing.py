"""The run cache on a DVC remote, with everything that it restores.

`dvc push --run-cache` sends the list of runs, and of their outputs only what the present dvc.lock keeps in DVC: neither
the metrics, which Git holds (`cache: false`), nor the outputs of other settings. Without these no stage is restored
elsewhere, so they are sent here. Nor does DVC keep in its list the runs of stages with tables in Git that it does not
know as metrics or plots (train, fit, evaluate and others): those of the present settings are added first.
"""

from pathlib import Path

from notbugs.errors import UserError


class PushError(UserError):
    """The remote is not there, or something cannot be sent to it."""


def push_runs(root: Path, remote: str | None = None) -> int:
    """Send the run cache and the outputs of every run in it that are in the local cache.

    Runs of the present settings, where the workspace is as dvc.lock says, are put into the run cache first.

    Args:
        root: the project.
        remote: its name; None takes DVC's default.
    Returns: number of runs.
    Raises: PushError in one line.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            with repo.lock:
                for stage in repo.index.stages:
                    if not stage.changed():
                        repo.stage_cache.save(stage)
            runs = repo.stage_cache.push(remote)
            found = repo.stage_cache.get_used_objs(runs).values()
            sent = repo.cloud.push(set().union(*found), remote=remote)
    except DvcException as error:
        raise PushError(f"notbugs push: {' '.join(str(error).split())[:300]}") from None
    if sent.failed:
        raise PushError(f"notbugs push: {len(sent.failed)} objects could not be sent; again later")
    return len(runs)
