"""The page: everything is computed first, then written; pictures are inlined and saved beside it."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from notbugs.evaluation.results import WORST, AccuracyRow, accuracy_table, attack_label, percent
from notbugs.report.claims import Claim, judge
from notbugs.report.drawing import report_style, to_png
from notbugs.report.evidence import evidence_of
from notbugs.report.figures import FIGURES, NORM_NAMES
from notbugs.report.grids import GRIDS
from notbugs.report.overview import SECTIONS, Content
from notbugs.report.project import Project, load_project
from notbugs.report.studies import sweep_pictures
from notbugs.runtime.files import whole_file, write_json, write_text

PAPER = "Adversarial Examples Are Not Bugs, They Are Features"


def write_page(root: Path, out: Path, figures_dir: Path) -> None:
    """See `notbugs.report.write_report`."""
    project = load_project(root)
    content = Content(project, judge(evidence_of(project)), draw_pictures(project))
    html = render(content)
    for name, png in content.pictures.items():
        with whole_file(figures_dir / f"{name}.png") as temporary:
            temporary.write_bytes(png)
    write_text(out, html)
    write_json(out.with_name("verdicts.json"), [verdict_record(claim) for claim in content.claims])


def verdict_record(claim: Claim) -> dict[str, str]:
    """A verdict as reports/verdicts.json holds it, in Git: what README.md says follows from it."""
    return {
        "key": claim.key,
        "title": claim.title,
        "verdict": claim.verdict,
        "measured": claim.sentence,
        "basis": claim.judgement.basis,
        "elsewhere": claim.judgement.elsewhere,
    }


def draw_pictures(project: Project) -> dict[str, bytes]:
    """Every picture that this pipeline has, as PNG, by file name without suffix."""
    pictures = {}
    with report_style():
        for name, draw in {**FIGURES, **GRIDS}.items():
            figure = draw(project)
            if figure is not None:
                pictures[name] = to_png(figure)
        pictures |= sweep_pictures(project.root)
    return pictures


def render(content: Content) -> str:
    """The page as HTML; all text is escaped by the template."""
    project = content.project
    sections = [section for build in SECTIONS if (section := build(content)) is not None]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            title=f"Robust and non-robust features on {project.source}",
            subtitle=what_ran(project),
            abstract=abstract(project, content.claims),
            sections=sections,
        )
    )


def environment() -> Environment:
    """Where templates come from; all text put into them is escaped."""
    return Environment(
        loader=PackageLoader("notbugs.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def what_ran(project: Project) -> str:
    """Source, sizes, architecture and headline eps in a line."""
    sizes = project.prepare
    return (
        f"{project.architecture} on {project.source}: {sizes['train']} training, {sizes['validation']} "
        f"validation and {sizes['test']} test images in {sizes['classes']} classes; "
        f"headline eps {project.headline_eps:g} ({NORM_NAMES[project.norm]})"
    )


def abstract(project: Project, claims: list[Claim]) -> list[str]:
    """Three to five sentences: what was repeated, how many claims were seen, main numbers, what was not."""
    titles: dict[str, list[str]] = {seen: [] for seen in ("seen", "not seen", "cannot be judged")}
    for claim in claims:
        titles[claim.seen].append(claim.title)
    seen, not_seen, open_ = titles.values()
    edge = sum(claim.judgement.on_edge for claim in claims)
    sentences = [
        f"The experiments of “{PAPER}” (Ilyas et al., NeurIPS 2019) were repeated with "
        f"{project.architecture} on {project.source}.",
        f"Of {len(claims)} claims, {len(seen)} {'was' if len(seen) == 1 else 'were'} seen here, "
        f"{len(not_seen)} not, and {len(open_)} cannot be judged"
        + (f"; {edge} of these verdicts {'is' if edge == 1 else 'are'} on the edge." if edge else "."),
        main_numbers(project),
        f"Not seen: {'; '.join(not_seen)}." if not_seen else "",
        f"Cannot be judged: {'; '.join(open_)}." if open_ else "",
    ]
    return [sentence for sentence in sentences if sentence]


def main_numbers(project: Project) -> str:
    """One sentence with the accuracies that the paper is about, as far as they were measured; else empty."""
    table = {row.dataset: row for row in accuracy_table(project.results) if row.estimator == "standard"}
    eps = project.headline_eps
    attacked = [numbers for name in ("D", "D_R", "D_NR") if name in table for numbers in _attacked(table[name], eps)]
    clean = [
        f"{percent(cell.mean)}% from {name}"
        for name in ("D_rand", "D_det")
        if name in table and (cell := table[name].clean) is not None
    ]
    parts = [f"at eps {eps:g} an adversarial accuracy of {_listed(attacked)}"] if attacked else []
    parts += [f"an accuracy on untouched test images of {_listed(clean)}"] if clean else []
    return f"Standard training gives {', and '.join(parts)}." if parts else ""


def _attacked(row: AccuracyRow, eps: float) -> list[str]:
    """The worst case of a model with PGD beside it: "17.1% from D (PGD-100 alone: 23.0%)"; empty if not attacked."""
    cell = row.under_attack(eps)
    if cell is None:
        return []
    beside = row.pgd(eps) if row.attack_at(eps) == WORST else None
    weaker = f"; {attack_label(beside[0])} alone: {percent(beside[1].mean)}%" if beside else ""
    return [f"{percent(cell.mean)}% from {row.dataset} ({attack_label(row.attack_at(eps))}{weaker})"]


def _listed(items: list[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
