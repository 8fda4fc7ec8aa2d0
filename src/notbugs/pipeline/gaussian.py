"""Stage `gaussian`: the theory of two Gaussians, in closed form and checked."""

from notbugs.pipeline.running.context import Context
from notbugs.runtime.config import settings
from notbugs.runtime.files import write_json
from notbugs.science.gaussian.study import study
from notbugs.science.gaussian.theory import GaussianSettings


def gaussian(project: Context) -> None:
    """Write metrics/gaussian.json.

    Command: `notbugs gaussian`. Takes about 10 s. Expected: direct optimisation agrees with the closed form to
    better than 1e-3, sampling within four standard errors.
    """
    config = settings(project.params, "gaussian", GaussianSettings)
    metrics_file = project.root / "metrics" / "gaussian.json"
    with project.tracked(
        "gaussian",
        params={"gaussian": config.model_dump(mode="json"), "seed": project.seed},
        inputs=[],
        outputs=[metrics_file],
        metrics_file=metrics_file,
    ) as run:
        found = study(config, project.seed)
        write_json(metrics_file, found)
        for name, case in found.items():
            for step, (eps, of_mu, worst) in enumerate(zip(*case["alignment"].values(), strict=True)):
                run.curve(step, {f"{name}/eps": eps, f"{name}/alignment": of_mu, f"{name}/worst_alignment": worst})
    errors = [budget["minimax"]["covariance_error"] for case in found.values() for budget in case["budgets"]]
    project.say(
        f"gaussian: closed form against direct optimisation {max(errors):.1e} off at most, against sampling "
        f"{max(case['largest_z'] for case in found.values()):.1f} standard errors"
    )
