"""Stage `report`: the figures and the page that puts the paper's claims beside what was measured."""

from notbugs.config import settings
from notbugs.files import whole_folder
from notbugs.report import ReportSettings, write_report
from notbugs.stages.context import Context
from notbugs.stages.unused import remove_unused


def report(project: Context) -> None:
    """Write reports/report.html and plots/figures/*.png.

    Command: `notbugs report`. Takes about 10 s.
    """
    config = settings(project.params, "report", ReportSettings)
    remove_unused(project)
    page = project.root / "reports" / "report.html"
    figures = project.root / "plots" / "figures"
    with project.tracked(
        "report",
        params={"report": config.model_dump(mode="json")},
        inputs=[project.root / "metrics" / "results.csv"],
        outputs=[page, figures],
    ) as run:
        with whole_folder(figures) as unfinished:
            write_report(project.root, page, unfinished)
        for picture in sorted(figures.glob("*.png")):
            run.artifact(picture, "figures")
        run.artifact(page)
    project.say("report: open reports/report.html in a browser")
