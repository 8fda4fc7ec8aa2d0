"""Stage `report`: the figures and the page that puts the paper's claims beside what was measured."""

from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.unused import remove_unused
from notbugs.report import ReportSettings
from notbugs.runtime.config import settings
from notbugs.runtime.files import whole_folder


def report(project: Context) -> None:
    """Write reports/report.html, reports/verdicts.json and plots/figures/*.png.

    Command: `notbugs report`. Takes about 10 s.
    """
    from notbugs.report.page import write_report  # matplotlib and jinja2 load only when a report is made

    config = settings(project.params, "report", ReportSettings)
    remove_unused(project)
    page = project.root / "reports" / "report.html"
    verdicts = page.with_name("verdicts.json")
    figures = project.root / "plots" / "figures"
    with project.tracked(
        "report",
        params={"report": config.model_dump(mode="json")},
        inputs=[project.root / "metrics" / "results.csv"],
        outputs=[page, verdicts, figures],
    ) as run:
        with whole_folder(figures) as unfinished:
            write_report(project.root, page, unfinished)
        for picture in sorted(figures.glob("*.png")):
            run.artifact(picture, "figures")
        run.artifact(page)
        run.artifact(verdicts)
    project.say("report: open reports/report.html in a browser")
