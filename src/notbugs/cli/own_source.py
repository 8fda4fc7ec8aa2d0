"""The code beside the project's dvc.yaml is the code that runs.

An editable installation names one folder, the one that it was made from. DVC runs a queued experiment in a copy of the
repository with the experiment's own source, and hashes that source for dvc.lock: it is what has to run there.
"""

import os
import sys
from pathlib import Path

import notbugs
from notbugs.runtime.errors import UserError
from notbugs.runtime.machine import own_source


class SourceError(UserError):
    """The project's own code cannot be run."""


def run_own_source() -> None:
    """Start this command anew with the project's own `src/notbugs`, if there is one and another one runs.

    PYTHONPATH names it then, so that every process started from here runs it too. Does not return in this case. A
    project that only uses an installed package has no `src/notbugs`, and nothing happens.

    Raises: SourceError if Python was told to ignore PYTHONPATH (`python -I`, `-E`).
    """
    own = own_source(Path.cwd())
    if own is None:
        return
    running = Path(notbugs.__file__).parent
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if paths[:1] == [str(own)]:
        raise SourceError(
            f"{running} runs here, not {own / 'notbugs'}, which PYTHONPATH names: start Python without -I"
        )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(own), *paths])}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
