"""Stage `sweep`, as the pipeline's stages are declared; importing this imports no Optuna."""

from notbugs.pipeline.running.stage import Stage

SWEEP = Stage(
    name="sweep",
    does="run the study NAME of the section `sweep` (without a name: every one of them).",
    work="notbugs.sweeps.session:run",
    settings="notbugs.sweeps.settings:read_study",
    by_name=True,
    options="--replace",
    shared=("seed", "num_threads", "device", "precision", "engine"),
    reads=("model", "train", "construct", "fit", "evaluate"),
    inputs=("data/train", "data/validation", "data/test", "models/train"),
    outputs=("sweeps/{name}/importance.csv", "sweeps/{name}/study.json", "sweeps/{name}/trials.csv"),
)
"""On digits about 2 s a point on one core. Expected there: D_rand's accuracy on y rises with eps, and hardly with the
steps from about 10 on; D_det's turns from y + 1 to y only where the images no longer show y."""
