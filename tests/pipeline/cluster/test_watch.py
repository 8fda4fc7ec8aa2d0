"""What is said while the pipeline runs, where output is no terminal."""

import pytest

from notbugs.pipeline.cluster import watch
from notbugs.pipeline.cluster.watch import Watch


def test_a_stage_has_its_number_when_it_begins_and_when_it_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Watch(["prepare", "train@standard", "train@robust"])
    with shown:
        shown.done("prepare", ran=False)  # nothing to do: said by nobody
        shown.begin("train@standard")
        shown.begin("train@robust")
        shown.done("train@robust", ran=True)
    assert capsys.readouterr().err.splitlines() == [
        "train@standard: begins (stage 2 of 3)",
        "train@robust: begins (stage 3 of 3)",
        "train@robust: done in 0 s (2 of 3 stages)",
    ]


def test_now_and_then_each_stage_says_what_it_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])
    shown = Watch(["fit@det", "fit@rand", "report"])
    shown.begin("fit@det")
    shown.begin("fit@rand")
    for stage in shown._running.values():
        stage.begun = clock[0]
    shown.progress({"address": "fit@det", "description": "fit det, models", "done": 0, "total": 20})
    clock[0] += 30
    shown.progress({"address": "fit@det", "description": "fit det, models", "done": 10, "total": 20})
    lines = [str(line) for line in shown._picture().renderables]  # type: ignore[attr-defined]
    assert [" ".join(line.split()) for line in lines] == [
        "fit@det, stage 1 of 3 running for 30 s; fit det, models: 10/20, 3.0 s each, 30 s left",
        "fit@rand, stage 2 of 3 running for 30 s",
        "0 of 3 stages done; waiting: report",
    ]
    over = iter([False, True])
    monkeypatch.setattr(shown._over, "wait", lambda seconds: next(over))
    capsys.readouterr()
    shown._tell_now_and_then()
    assert capsys.readouterr().err.splitlines() == [
        "fit@det (stage 1 of 3): running for 30 s; fit det, models: 10/20, 3.0 s each, 30 s left",
        "fit@rand (stage 2 of 3): running for 30 s",
        "0 of 3 stages done; waiting: report",
    ]
