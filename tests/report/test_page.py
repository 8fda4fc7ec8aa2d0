"""The page: complete, self-contained, escaped, the same bytes from the same inputs, and clear errors."""

import json
import pickle
import re
import shutil
from collections.abc import Callable, Sequence
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from notbugs.evaluation.results import ResultsError
from notbugs.report import ReportSettings
from notbugs.report.live import bundle
from notbugs.report.page import SECTIONS, abstract, main_numbers, write_report
from notbugs.report.project import load_project
from notbugs.report.sections import Section
from notbugs.runtime.errors import ConfigError

CLAIMS = next(section for section in SECTIONS if section.key == "claims")
MakeProject = Callable[..., Path]
VOID = {"meta", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects text, tags, and what would be loaded."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.anchors: list[str] = []
        self.ids: list[str] = []
        self.parts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        facts = dict(attributes)
        self.loads += [value or "" for name, value in attributes if name in ("src", "srcset", "data", "poster")]
        if tag == "link":
            self.loads.append(facts.get("href") or "")
        if tag == "a":
            self.anchors.append(facts.get("href") or "")
        if "id" in facts:
            self.ids.append(facts["id"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.parts).split())


@pytest.fixture(scope="module")
def written(fake_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    write_report(fake_project, folder / "reports" / "report.html", folder / "figures")
    return folder


@pytest.fixture(scope="module")
def html(written: Path) -> str:
    return (written / "reports" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_page_loads_nothing(html: str, page: Page) -> None:
    assert html.startswith("<!DOCTYPE html>")
    assert page.loads
    assert all(load.startswith("data:image/png;base64,") for load in page.loads)
    assert html.count(bundle()) == 1
    assert page.tags.count("script") == 3 + html.count('<script type="application/json">')  # folding, Vega, charts
    outside = without_scripts(html)
    assert "@import" not in outside
    assert "url(" not in outside
    assert {anchor for anchor in page.anchors if anchor.startswith("#")} <= {f"#{name}" for name in page.ids}
    optional = {section.key for section in SECTIONS if section.needs} - {"debate"}  # not in params; recorded
    sections = [name for name in page.ids if not name.startswith(("verdict-", "part-", "sheet-"))]
    assert set(sections) == {section.key for section in SECTIONS} - optional
    assert len(page.ids) == len(set(page.ids))


def test_the_first_screen_asks_shows_judges_and_says_how_far_it_can_be_trusted(fake_project: Path, html: str) -> None:
    head = html.partition("<nav")[0]
    claims = CLAIMS.judge(load_project(fake_project), {})
    assert head.index('class="question"') < head.index('class="chips"') < head.index("How far to trust this")
    for claim in claims:
        assert f'<a href="#verdict-{claim.key}">' in head
        assert f'<tr id="verdict-{claim.key}">' in html
    assert head.count('<span class="verdict">') == len(claims)
    numbers = {"reproduced": 0, "not reproduced": 0, "inconclusive": 0}
    for claim in claims:
        numbers[claim.finding] += 1
    counted = f"{numbers['reproduced']} reproduced, {numbers['not reproduced']} not, {numbers['inconclusive']} inconcl"
    assert f"{len(claims)} statements, the claims above and those of all sections below, were put to the data" in head
    assert counted in head
    assert re.search(r"notbugs <code>[\d.]+</code>, (D <code>[0-9a-f]{12}</code>, )?settings <code>[0-9a-f]{12}<", head)


def test_most_of_it_is_folded(html: str) -> None:
    open_parts = re.sub(r"<details.*?</details>|<style.*?</style>|<script.*?</script>", "", html, flags=re.DOTALL)
    words = re.sub(r"<[^>]*>", " ", open_parts).split()
    assert len(words) <= 4500
    assert '<details class="section" id="settings">' in html
    assert '<section id="claims">' in html


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.key)
def test_every_section_has_a_template_of_its_name(section: Section) -> None:
    assert section.template.TITLE
    assert section.template.page
    assert set(getattr(section.template, "STATEMENTS", {})) == set(section.rules)
    assert all(hasattr(section.template, key) for key in section.rules)


def test_page_holds_every_claim_with_verdict(fake_project: Path, page: Page) -> None:
    claims = CLAIMS.judge(load_project(fake_project), {})
    assert len(claims) == 8
    for claim in claims:
        for text in (claim.title, claim.statement, claim.sentence):
            assert " ".join(text.split()) in page.text
    assert page.text.count("reproduced") >= len(claims)


def test_page_holds_tables_settings_words_and_citation(page: Page) -> None:
    for text in (
        "Robust and non-robust features on digits",
        "small_cnn on digits: 200 training, 200 validation and 360 test images in 10 classes; headline eps 0.5 (L2)",
        "the paper: CIFAR-10, ResNet-50",
        "95.25 4.49 0",
        "attack: {norm: l2, eps: 1.0, num_steps: 7}",
        "176 images",
        "Adversarial Examples Are Not Bugs, They Are Features. Advances in Neural",
        "eprint = {1905.02175}",
        "representation g(x) Activations of the penultimate layer: the input of the last linear layer.",
        "that it called y before the perturbation. A fit marked still y was trained on only the images that both",
        "Where a share is below 85%, the labels t are partly simply right",
    ):
        assert text in spaced(page)


def without_scripts(html: str) -> str:
    return re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)


def test_a_live_chart_stands_beside_its_picture(html: str) -> None:
    figures = re.findall(r"<figure>.*?</figure>", html, flags=re.DOTALL)
    charts = [one for one in figures if "application/json" in one]
    recorded = [name for name in html.split() if name == "Recorded,"]  # debate, at least a chart a part
    assert len(charts) >= 5 + len(recorded)  # accuracies against eps, two; learning curves; two of the study
    for one in charts:
        text = re.search(r'<script type="application/json">(.*?)</script>', one)
        assert text is not None
        assert json.loads(text[1])["description"]
        assert re.search(r'<img src="data:image/png;base64,[^"]+" alt="[^"]{10,}"', one)


def test_sections_stand_in_their_order(html: str) -> None:
    places = [html.index(f' id="{key}">') for key in ("samples", "explorer", "debate", "learning", "words", "cite")]
    assert places == sorted(places)
    assert '<details class="section" id="explorer">' in html


def test_training_accuracy_of_adversarial_training_is_called_so(page: Page) -> None:
    text = spaced(page)
    assert "In the panel of D, robust the training curve is training accuracy under attack." in text
    assert re.search(r"D, robust 4 0\.500 under attack 87\.5 under attack ", text)
    assert re.search(r"D, standard 4 0\.500 87\.5 \d", text)


def spaced(page: Page) -> str:
    """The text with a blank between neighbouring cells."""
    return " ".join(" ".join(page.parts).split())


def test_hashes_are_those_of_the_files(fake_project: Path, page: Page) -> None:
    for name in (
        "data/train/manifest.json",
        "data/det_from_robust/source-0/manifest.json",
        "models/train/robust/seed-0.safetensors",
    ):
        assert name in page.text
        assert sha256((fake_project / name).read_bytes()).hexdigest() in page.text


def test_nothing_of_the_machine_or_the_moment_is_on_the_page(fake_project: Path, written: Path, html: str) -> None:
    without_pictures = re.sub(r"base64,[^\"]+", "", html.replace(bundle(), ""))
    assert str(fake_project) not in without_pictures
    assert str(written) not in without_pictures
    assert "made-up" not in without_pictures  # the experiment's name
    assert not re.search(r"\d\d:\d\d", without_pictures)


def test_figures_are_written_beside_the_page(written: Path, html: str) -> None:
    written_names = sorted(file.name for file in (written / "figures").iterdir())
    assert [name for name in written_names if not name.startswith("debate-")] == sorted(  # of recordings
        f"{name}.png"
        for name in (
            "figure_2", "accuracy_vs_eps", "label_accuracies", "distances", "learning_curves",
            "minimum_norm",
            "datasets", "grid_inverted", "grid_rand", "grid_det",
            "sweep_small_rand_heatmaps", "sweep_small_det_heatmaps",
            "sweep_small_lines", "sweep_small_steps", "sweep_small_budget", "sweep_small_front",
            "sweep_small_importance",
        )
    )  # fmt: skip
    assert without_scripts(html).count("<img ") == len(written_names)


def by_another(tasks: Sequence[Any], work: Callable[[Any], Any], description: str) -> list[Any]:
    """As by a worker process, which gets the work as bytes."""
    return [pickle.loads(pickle.dumps(work))(task) for task in tasks]


def test_same_inputs_same_bytes_anywhere(fake_project: Path, written: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(fake_project, elsewhere)
    write_report(elsewhere, elsewhere / "reports/report.html", elsewhere / "plots/figures", do_all=by_another)
    again = (elsewhere / "reports/report.html").read_bytes()
    assert again == (written / "reports/report.html").read_bytes()
    for file in (written / "figures").iterdir():
        assert (elsewhere / "plots/figures" / file.name).read_bytes() == file.read_bytes()


def test_numbers_on_the_page_follow_the_results(tmp_path: Path, make_project: MakeProject) -> None:
    root = make_project(tmp_path / "lab", constructions=("rand",))
    path = root / "metrics/results.csv"
    before = abstract(load_project(root), CLAIMS.judge(load_project(root), {}))
    text = path.read_text(encoding="utf-8")
    rows = [re.sub(r",0\.0,0\.8\d+,", ",0.0,0.9,", line) for line in text.splitlines() if line]
    path.write_text("\n".join(rows), encoding="utf-8")
    after = abstract(load_project(root), CLAIMS.judge(load_project(root), {}))
    assert "85.0% from D_rand" in before
    assert "90.0% from D_rand" in after


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("constructions", [(), ("rand",), ("robust", "nonrobust"), ("det_from_robust",)])
def test_pipelines_without_some_constructions(
    tmp_path: Path, make_project: MakeProject, constructions: tuple[str, ...]
) -> None:
    root = make_project(tmp_path / "lab", constructions=constructions)
    write_report(root, root / "report.html", root / "figures")
    text = Page((root / "report.html").read_text(encoding="utf-8")).text
    assert ("D_rand is not in this pipeline" in text) == ("rand" not in constructions)
    assert ("D_R is not in this pipeline" in text) == ("robust" not in constructions)
    assert (root / "figures/grid_rand.png").exists() == ("rand" in constructions)
    assert (root / "figures/grid_inverted.png").exists() == ("robust" in constructions)
    assert (root / "figures/figure_2.png").exists()


def test_abstract_is_three_to_five_sentences(fake_project: Path, tmp_path: Path, make_project: MakeProject) -> None:
    project = load_project(fake_project)
    told = abstract(project, CLAIMS.judge(project, {}))
    assert told.startswith("The experiments of “Adversarial Examples Are Not Bugs, They Are Features” (Ilyas et al., ")
    counts = (
        "were repeated with small_cnn on digits. Of 8 claims, 8 were reproduced here, 0 not, and 0 are inconclusive."
    )
    assert told.endswith(f"{counts} {main_numbers(project)}")
    assert main_numbers(project) == (
        "Standard training gives at eps 0.5 an adversarial accuracy of 32.5% from D (all attacks together; PGD-100 "
        "alone: 33.9%), 52.5% from D_R (all attacks together; PGD-100 alone: 53.9%) and 19.7% from D_NR (all attacks "
        "together; PGD-100 alone: 21.1%), and an accuracy on untouched test images of 85.0% from D_rand and 60.0% "
        "from D_det."
    )
    bare = load_project(make_project(tmp_path / "bare", constructions=()))
    assert "Inconclusive: Standard training on D_R gives robustness; D_NR is accurate" in abstract(
        bare, CLAIMS.judge(bare, {})
    )


@pytest.mark.usefixtures("blank_pictures")
def test_text_from_data_is_escaped(tmp_path: Path, make_project: MakeProject) -> None:
    root = make_project(tmp_path / "lab", constructions=())
    for name in ("metrics/results.csv", "metrics/per_class.csv"):
        path = root / name
        text = path.read_text(encoding="utf-8")
        path.write_text(
            text.replace("digits", "<b>&amp;").replace(",3,", ",<script>alert(1)</script>,"), encoding="utf-8"
        )
    write_report(root, root / "report.html", root / "figures")
    html = (root / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in html
    assert html.count("<script>") == 1  # the page's own
    assert "on &lt;b&gt;&amp;amp;" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def change_params(section: str, value: object) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
        params[section] = value
        (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")

    return change


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_text(text, encoding="utf-8") and None


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (remove("metrics/results.csv"), ResultsError, r"results\.csv: not found; `dvc repro evaluate`"),
        (remove("metrics/per_class.csv"), ResultsError, r"per_class\.csv: not found; `dvc repro evaluate`"),
        (remove("metrics/checks.json"), ResultsError, r"checks\.json: not found; `dvc repro evaluate`"),
        (write("metrics/checks.json", "{}"), ResultsError, r"checks\.json: must be a list of model, check"),
        (remove("metrics/per_example.parquet"), ResultsError, r"per_example\.parquet: not found; `dvc repro evaluate`"),
        (write("metrics/minimum_norms.parquet", "x"), ResultsError, r"minimum_norms\.parquet: cannot be read"),
        (remove("metrics/certificates.csv"), ResultsError, r"certificates\.csv: not found; `dvc repro evaluate`"),
        (remove("metrics/prepare.json"), ResultsError, r"prepare\.json: not found; `dvc repro prepare`"),
        (
            remove("metrics/construct/rand.json"),
            ResultsError,
            r"rand\.json: not found; `dvc repro construct@rand`",
        ),
        (
            remove("plots/learning/fit-rand.csv"),
            ResultsError,
            r"fit-rand\.csv: not found; `dvc repro fit@rand`",
        ),
        (
            write("metrics/prepare.json", "{}"),
            ResultsError,
            r"prepare\.json: train, validation, test, classes is",
        ),
        (write("metrics/prepare.json", "{"), ResultsError, r"prepare\.json: cannot be read"),
        (
            write("plots/learning/train-robust.csv", "subset,seed\nfull,0\n"),
            ResultsError,
            r"column source_seed, epoch, lr",
        ),
        (
            change_params("evaluate", {"eps": [0.5]}),
            ConfigError,
            r"evaluate\.headline_eps = None: must be a number > 0",
        ),
        (
            change_params("report", {"grid_example": 3}),
            ConfigError,
            r"report\.grid_example: unknown key; did you mean",
        ),
        (change_params("report", {"grid_examples": 0}), ConfigError, r"report\.grid_examples = 0: must be"),
    ],
)
def test_errors_name_the_file_and_the_command(
    tmp_path: Path, fake_project: Path, spoil: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    root = shutil.copytree(fake_project, tmp_path / "lab")
    spoil(root)
    with pytest.raises(error, match=message):
        write_report(root, root / "report.html", root / "figures")
    assert not (root / "report.html").exists()


def test_defaults() -> None:
    assert ReportSettings().grid_examples == 10
    assert json.loads(ReportSettings().model_dump_json()) == {"grid_examples": 10, "settings_note": ""}


# The attack suite


def test_the_suite_the_checks_and_the_gap_are_shown(written: Path, page: Page) -> None:
    text = spaced(page)
    assert "All 22 checks for masked gradients passed." in text
    assert "all attacks together leave up to 1.4 points less than PGD with 100 steps" in text
    assert (written / "figures" / "minimum_norm.png").exists()


@pytest.mark.usefixtures("blank_pictures")
def test_a_failed_check_is_named_at_the_claims(make_project: MakeProject, tmp_path: Path) -> None:
    root = make_project(tmp_path / "lab", constructions=("robust",))
    file = root / "metrics/checks.json"
    checks = json.loads(file.read_text())
    checks[0] |= {"passed": False, "value": None}
    file.write_text(json.dumps(checks))
    write_report(root, tmp_path / "report.html", tmp_path / "figures")
    page = (tmp_path / "report.html").read_text()
    sentence = "failed (D, standard, seed 0: white-box beats noise)"
    assert page.count(sentence) == 3
    assert page.index(sentence) < page.index("Figure 2 of the paper, remade</h2>")
    assert "no number not ≤ 0.0028" in page


@pytest.mark.usefixtures("blank_pictures")
def test_certificates_are_shown_where_there_are_some(make_project: MakeProject, tmp_path: Path) -> None:
    root = make_project(tmp_path / "lab", constructions=("robust",))
    rows = ["dataset,estimator,source_seed,seed,sigma,eps,accuracy,abstained,n"]
    rows += [f"D,robust,,0,0.25,{eps},{accuracy},0.125,40" for eps, accuracy in ((0.0, 0.875), (0.5, 0.25))]
    (root / "metrics/certificates.csv").write_text("\n".join(rows) + "\n")
    write_report(root, tmp_path / "report.html", tmp_path / "figures")
    text = " ".join(" ".join(Page((tmp_path / "report.html").read_text()).parts).split())
    assert "Randomised smoothing with sigma 0.25, 40 images" in text
    assert "12.5 87.5 25.0" in text


@pytest.mark.usefixtures("blank_pictures")
def test_captions_say_one_seed_where_it_is_one(tmp_path: Path, make_project: MakeProject, html: str) -> None:
    root = make_project(tmp_path / "lab")
    results = pd.read_csv(root / "metrics/results.csv")
    first = results[(results["seed"] == 0) & results["source_seed"].fillna(0).eq(0)]
    first.to_csv(root / "metrics/results.csv", index=False)
    write_report(root, root / "report.html", root / "figures")
    alone = (root / "report.html").read_text(encoding="utf-8")
    for section, count in (("figure-2", 1), ("eps", 1), ("labels", 1), ("learning", 2), ("classes", 1)):
        for page, words in ((alone, "one seed"), (html, "and trainings|mean over seeds")):
            (own,) = re.findall(rf'id="{section}">.*?</(?:section|details)>', page, flags=re.DOTALL)
            told = re.sub(r"aria-label=\"[^\"]*\"|<script.*?</script>", "", own, flags=re.DOTALL)
            assert len(re.findall(words, told)) == count, (section, words)
