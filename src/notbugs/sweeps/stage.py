"""Stage `sweep`: how the constructed datasets depend on eps and on the number of steps."""

from notbugs.pipeline.running.context import Context
from notbugs.sweeps.session import run


def sweep(
    project: Context, name: str, *, url: str | None = None, jobs: int | None = None, replace: bool = False
) -> None:
    """Write sweeps/<name>/trials.csv, importance.csv and study.json.

    Command: `notbugs sweep small`. On digits about 2 s a point on one core. Expected there: D_rand's accuracy on
    y rises with eps, and hardly with the steps from about 10 on; D_det's turns from y + 1 to y only where the
    images no longer show y.
    """
    run(project, name, url=url, jobs=jobs, replace=replace)
