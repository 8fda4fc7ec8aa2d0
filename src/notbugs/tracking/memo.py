"""Whether anything has happened since the last `notbugs track`; found out without MLflow."""

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from notbugs.runtime.files import write_text
from notbugs.tracking import location
from notbugs.tracking.journal import journals


def is_current(root: Path, project: Path, uri: str, experiment: str, families: Sequence[str] = ()) -> bool:
    """Whether dvc.lock, the families, the journals and the tracking store are those of the last `remember`."""
    try:
        remembered = json.loads(_file(project).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if remembered != _memo(root, project, uri, experiment, families):
        return False
    return not location.is_server(uri) or _server_remembers(project, uri)


def remember(root: Path, project: Path, uri: str, experiment: str, families: Sequence[str] = ()) -> None:
    """Note that all is done."""
    write_text(_file(project), json.dumps(_memo(root, project, uri, experiment, families)))


def _file(project: Path) -> Path:
    return project / ".notbugs" / "tracked.json"


def _memo(root: Path, project: Path, uri: str, experiment: str, families: Sequence[str]) -> dict[str, Any]:
    """All that decides whether there is something to do."""
    lock, database = root / "dvc.lock", location.database_file(uri)
    there = database.stat() if database and database.exists() else None
    sent = sorted(journal.folder.name for journal in journals(location.work_folder(project)) if journal.done)
    return {
        "store": location.store_name(project, uri),
        "experiment": experiment,
        "families": sorted(families),
        "lock": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else None,
        "database": [there.st_dev, there.st_ino] if there else None,
        "sent": hashlib.sha256("\n".join(sent).encode()).hexdigest(),
    }


def _server_remembers(project: Path, uri: str) -> bool:
    """Ask a server for a run that was sent to it; False only if it does not know the run."""
    name = location.store_name(project, uri)
    sent = (journal for journal in journals(location.work_folder(project)) if journal.done)
    run_id = next((journal.state["run_id"] for journal in sent if journal.header.get("store") == name), None)
    if run_id is None:
        return False
    try:
        address = location.endpoint(uri, "/api/2.0/mlflow/runs/get") + f"?run_id={run_id}"
        urllib.request.urlopen(address, timeout=location.CHECK_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code != 404
    except OSError:
        return True
    return True
