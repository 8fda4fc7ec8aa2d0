"""The numbers in README.md and docs/: made from the metrics, between markers, by one command."""

import json
import re
from pathlib import Path

import pytest

from notbugs.report import documents
from notbugs.report.documents import BLOCKS, DocumentError, results_block, suite_block, write_documents, written_page

RECORDED = {
    "title": "Pictures",
    "train": 900,
    "test": 100,
    "network": "resnet9, width 32",
    "models": 1,
    "minutes": 80,
    "machine": "2 processors",
    "eps": 0.25,
    "sets": [
        {"title": "D_rand", "norm": "l2", "eps": 1.5, "num_steps": 8, "success": 0.99, "still_y": 0.936},
        {"title": "D_det", "norm": "l2", "eps": 1.5, "num_steps": 8, "success": 0.98, "still_y": None},
    ],
    "rows": [
        {"label": "D, standard", "y": 0.812, "shifted": 0.02, "attacked": 0.3, "attack": "PGD-20"},
        {"label": "D_det", "y": 0.4, "shifted": 0.25, "attacked": None, "attack": None},
    ],
}
PAGE = "before\n<!-- {0}:start -->\nold\n<!-- {0}:end -->\nafter\n"


@pytest.fixture
def checkout(make_project, tmp_path: Path) -> Path:
    """A project with the pages that have blocks."""
    root: Path = make_project(tmp_path / "lab", constructions=("robust", "det"))
    for page, blocks in BLOCKS.items():
        (root / page).parent.mkdir(exist_ok=True)
        (root / page).write_text("".join(PAGE.format(name) for name in blocks))
    (root / "benchmarks").mkdir()
    for table in documents.TRIALS.values():
        (root / table).write_text('fitted on,on y\n"D, standard",33.0\n')
    for recording in documents.RECORDED.values():
        (root / recording).parent.mkdir(parents=True)
        (root / recording).write_text(json.dumps(RECORDED))
    (root / documents.PICTURE).write_bytes(b"old")
    return root


def test_the_readme_quotes_the_worst_case_with_pgd_beside_it(checkout: Path) -> None:
    text = results_block(checkout)
    assert "| D, robust | 96.1 ±0.8 | 0.3 | 75.6 ±0.8 | 76.9 |" in text
    assert "| D, fitted as D_R |" in text
    assert "at L2 eps 0.5, with PGD-100 alone beside it" in " ".join(text.split())
    known = (
        "of the images that they called y before the perturbation, a robust model and a nearest neighbour still call y"
    )
    assert f"{known} 93.0% and 91.0% of D_det" in " ".join(text.split())
    assert "D_rand" not in text


def test_a_run_without_the_suite_has_no_empty_column(checkout: Path) -> None:
    file = checkout / "metrics/results.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if ",worst," not in line))
    text = results_block(checkout)
    assert "| fitted on | on y | on y + 1 | PGD-100 alone |\n|---|---|---|---|\n" in text
    assert "| D, robust | 96.1 ±0.8 | 0.3 | 76.9 |" in text
    assert "under attack at L2 eps 0.5: what PGD-100 leaves, no other attack was run" in " ".join(text.split())


def test_a_recorded_run_is_told_as_one(checkout: Path) -> None:
    (name,) = documents.RECORDED
    block = BLOCKS["README.md"][name](checkout)
    text = " ".join(block.split())
    assert text.startswith(
        "On natural images (Pictures: 900 training images, 100 test images; resnet9, width 32; 1 model of"
    )
    assert "recorded in 80 minutes on 2 processors" in text
    assert "D_rand at L2 eps 1.5 in 8 steps, still y 93.6%; D_det at L2 eps 1.5 in 8 steps. All of it:" in text
    assert "| fitted on | on y | on y + 1 | PGD-20 at eps 0.25 |\n|---|---|---|---|\n" in block
    assert "| D, standard | 81.2 | 2.0 | 30.0 |\n| D_det | 40.0 | 25.0 | – |" in block
    assert "All of it: [results/cifar10_jpeg](results/cifar10_jpeg). |" in text


def test_the_verdicts_are_the_report_s(checkout: Path) -> None:
    assert "claims" not in results_block(checkout)
    claims = [
        {"title": "First", "verdict": "reproduced"},
        {"title": "Second", "verdict": "reproduced"},
        {"title": "Third", "verdict": "inconclusive, on the edge"},
    ]
    (checkout / "reports").mkdir()
    (checkout / "reports/verdicts.json").write_text(json.dumps(claims))
    assert results_block(checkout).endswith("- Reproduced: First; Second.\n- Inconclusive, on the edge: Third.")


def test_the_suite_s_table_holds_every_model(checkout: Path) -> None:
    text = suite_block(checkout)
    assert "| D, robust | 3 | 76.9 (PGD-100) | 75.6 |" in text
    assert "| D_R | 6 |" in text


def test_writing_changes_what_stands_between_the_markers_alone_and_once(checkout: Path) -> None:
    (checkout / "plots/figures").mkdir()
    (checkout / "plots/figures/figure_2.png").write_bytes(b"new")
    changed = write_documents(checkout)
    assert changed == [*BLOCKS, "docs/figure_2.png"]
    assert (checkout / documents.PICTURE).read_bytes() == b"new"
    text = (checkout / "README.md").read_text()
    assert "before\n<!-- results:start -->\nWhat `make repro` printed" in text
    assert "\n<!-- results:end -->\nafter\n" in text
    assert "old" not in re.sub("folder", "", text)
    table = "| fitted on | on y |\n|---|---|\n| D, standard | 33.0 |\n"
    assert (checkout / "docs/presets.md").read_text() == "".join(
        f"before\n<!-- {name}:start -->\n{table}<!-- {name}:end -->\nafter\n" for name in documents.TRIALS
    )
    assert write_documents(checkout) == []


def test_what_is_missing_is_named(checkout: Path) -> None:
    (checkout / "README.md").write_text("nothing here")
    with pytest.raises(
        DocumentError, match=r"README\.md: <!-- results:start --> and <!-- results:end --> are not there"
    ):
        written_page(checkout, "README.md")
    for page in BLOCKS:
        (checkout / page).unlink()
    with pytest.raises(DocumentError, match=r"README\.md: not found; --write-docs writes between markers that it has"):
        write_documents(checkout)


def test_a_project_has_its_readme_alone(checkout: Path) -> None:
    for page in [page for page in BLOCKS if page != "README.md"]:
        (checkout / page).unlink()
    (checkout / documents.PICTURE).unlink()
    (checkout / "plots/figures").mkdir()
    (checkout / "plots/figures/figure_2.png").write_bytes(b"new")
    for kept in (*documents.TRIALS.values(), *documents.RECORDED.values()):  # in the package's own repository alone
        (checkout / kept).unlink()
    (checkout / "README.md").write_text("<!-- results:start -->\nold\n<!-- results:end -->\n")
    (checkout / "plots/figures/datasets.png").write_bytes(b"strip")
    assert write_documents(checkout) == ["README.md", "docs/figure_2.png", "docs/datasets.png"]
