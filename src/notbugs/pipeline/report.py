"""Stage `report`: the figures and the page that puts the paper's claims beside what was measured."""

from notbugs.pipeline.running.job import Job
from notbugs.pipeline.running.jobs import by_workers
from notbugs.runtime.files import whole_folder


def report(job: Job) -> None:
    """Write reports/report.html, reports/verdicts.json and plots/figures/*.png.

    Command: `notbugs report`. Takes about 10 s.
    """
    from notbugs.report.page import write_report  # matplotlib and jinja2 load only when a report is made

    root = job.project.root
    page, verdicts, figures = job.outputs
    params = {"report": job.settings.model_dump(mode="json")}
    with job.begin([root / "metrics" / "results.csv"], params) as (run, _):
        with whole_folder(figures) as unfinished:
            notes = write_report(root, page, unfinished, do_all=by_workers(job.project))
        for picture in sorted(figures.glob("*.png")):
            run.artifact(picture, "figures")
        run.artifact(page)
        run.artifact(verdicts)
    for note in notes:
        job.say(f"not of the present settings, or left out: {note}")
    job.say("open reports/report.html in a browser")
