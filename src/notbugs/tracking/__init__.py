"""The only home of MLflow: runs of stages, live, and made good afterwards.

`live_run` tracks a stage while it runs; `reconcile.track` brings MLflow up to date with dvc.lock; `server.serve` shows
it all. Importing this is quick: MLflow is imported by the process that sends a run, and by `track` if need be.
"""

from notbugs.tracking.live import Run, SharedRun, live_run

__all__ = ["Run", "SharedRun", "live_run"]
