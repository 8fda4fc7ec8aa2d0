"""The run cache on a DVC remote, with everything that it restores.

`dvc push --run-cache` sends the list of runs, and of their outputs only what the present dvc.lock keeps in DVC: neither
the metrics, which Git holds (`cache: false`), nor the outputs of other settings. Without these no stage is restored
elsewhere, so they are sent here.
"""

from pathlib import Path

from notbugs.errors import UserError


class PushError(UserError):
    """The remote is not there, or something cannot be sent to it."""


def push_runs(root: Path, remote: str | None = None) -> int:
    """Send the run cache and the outputs of every run in it that are in the local cache.

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
            runs = repo.stage_cache.push(remote)
            found = repo.stage_cache.get_used_objs(runs).values()
            sent = repo.cloud.push(set().union(*found), remote=remote)
    except DvcException as error:
        raise PushError(f"notbugs push: {' '.join(str(error).split())[:300]}") from None
    if sent.failed:
        raise PushError(f"notbugs push: {len(sent.failed)} objects could not be sent; again later")
    return len(runs)
