"""What Git says of a folder."""

import os
import subprocess
from pathlib import Path


def git(folder: Path, *arguments: str) -> str | None:
    """What a command of Git's prints; None without Git, without a repository, or where the command fails."""
    command = ["git", "-C", str(folder), *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=20, env=environment)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
