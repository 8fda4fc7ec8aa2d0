"""The only home of MLflow: runs of stages, live, and made good afterwards.

`live_run` tracks a stage while it runs; `track` brings MLflow up to date with dvc.lock; `serve` shows it all.
Importing this is quick: MLflow is imported by the process that sends a run, and by `track` if need be.
"""

from typing import TYPE_CHECKING, Any

from notbugs.tracking.family import Family
from notbugs.tracking.live import Run, live_run

if TYPE_CHECKING:
    from notbugs.tracking.catching_up import TrackSummary, track
    from notbugs.tracking.recorded import RecordedFamily, RecordedRun
    from notbugs.tracking.server import ServeError, serve

__all__ = [
    "Family",
    "RecordedFamily",
    "RecordedRun",
    "Run",
    "ServeError",
    "TrackSummary",
    "live_run",
    "serve",
    "track",
]

_LATER = {
    "RecordedFamily": "recorded",
    "RecordedRun": "recorded",
    "ServeError": "server",
    "TrackSummary": "catching_up",
    "serve": "server",
    "track": "catching_up",
}


def __getattr__(name: str) -> Any:
    """What only the command line needs is imported when it is asked for."""
    from importlib import import_module

    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
