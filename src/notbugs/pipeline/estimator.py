"""Stage `estimator`: D_R and D_NR from many estimators g, and how robust what is learnt from each is."""

from typing import Any

from notbugs.data.images import Images, make_generator
from notbugs.data.store import load_dataset
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.unfinished import kept, unfinished
from notbugs.runtime.config import settings
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.files import write_json
from notbugs.science.estimator import (
    Estimator,
    EstimatorSettings,
    choose_pairs,
    estimate,
    estimators,
    measure_estimator,
    pooled,
)
from notbugs.science.inversion.inverting import Pairs


def estimator(project: Context) -> None:
    """Write metrics/estimator.json.

    Command: `notbugs estimator`. On digits about two minutes. Expected: the fit's adversarial accuracy rises with
    the radius at which g was trained.
    """
    config = settings(project.params, "estimator", EstimatorSettings)
    own = project.model_settings()
    metrics_file = project.root / "metrics" / "estimator.json"
    inputs = [project.dataset("train"), project.dataset("test")]
    with project.tracked(
        "estimator",
        params={
            "estimator": config.model_dump(mode="json"),
            "model": own.model_dump(mode="json"),
            "runtime": project.runtime.model_dump(mode="json"),
        },
        inputs=inputs,
        outputs=[metrics_file],
        metrics_file=metrics_file,
    ) as run:
        data, test = (load_dataset(folder) for folder in inputs)
        if not len(data.labels.unique()) <= (config.num_examples or len(data)) <= len(data):
            raise ConfigError(
                f"params.yaml: estimator.num_examples = {config.num_examples}: must be in "
                f"{len(data.labels.unique())}..{len(data)}, one of each class and no more than D has"
            )
        pairs = choose_pairs(data, config.num_examples, make_generator(project.seed, "estimator", "pairs"))
        measured = {}
        made_from = {"estimator": config.model_dump(mode="json"), "model": own.model_dump(mode="json")}
        with unfinished(project, "estimator", "all", settings=made_from, inputs=inputs) as work:
            for number, one in enumerate(estimators(config, own)):
                measured[one] = [
                    kept(
                        work / f"estimator-{number}-seed-{seed}.safetensors",
                        lambda one=one, seed=seed: _measured(project, config, one, data, pairs, test, seed),  # type: ignore[misc]
                    )
                    for seed in config.seeds
                ]
        table = pooled(measured)
        for number, facts in enumerate(table.values()):
            run.curve(number, {key: facts[key]["mean"] for key in ("g_attacked", "fit_clean", "fit_attacked")})
        write_json(
            metrics_file,
            {
                "eps": config.attack.eps,
                "num_examples": len(pairs.target),
                "num_seeds": len(config.seeds),
                "table": table,
            },
        )
    rise = [facts["fit_attacked"]["mean"] for facts in table.values() if facts["kind"] == "radius"]
    project.say(
        f"estimator: adversarial accuracy of the fits at eps {config.attack.eps:g} for g trained at eps "
        + ", ".join(f"{eps:g}: {value:.1%}" for eps, value in zip(config.eps, rise, strict=True))
    )


def _measured(
    project: Context,
    config: EstimatorSettings,
    one: Estimator,
    data: Images,
    pairs: Pairs,
    test: Images,
    seed: int,
) -> dict[str, Any]:
    """Train g, invert with it, fit and measure, for one seed."""
    stream: Any = {"seed": project.seed, "stream": ("estimator", seed), "progress": project.progress}
    g = estimate(one, config, data, device=project.device, **stream)
    name = f"estimator: {one.name}, seed {seed}"
    return measure_estimator(g, config, project.model_settings(), data, pairs, test, description=name, **stream)
