"""The suite: what it records, that it never gives images back, and how near quick comes to AutoAttack."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from notbugs.attacks.norms import NORMS, L2Ball
from notbugs.data.images import ImageData
from notbugs.data.store import load_dataset, save_dataset
from notbugs.evaluation.accuracy import outcomes, predict
from notbugs.evaluation.levels import LEVELS, SuiteSettings
from notbugs.evaluation.masking import transfer_images
from notbugs.evaluation.results import WORST
from notbugs.evaluation.suite import Audit, audit, audited, find, generator_of_part
from notbugs.models.base import Classifier
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from scaled import Scaled

pytestmark = pytest.mark.usefixtures("whole_level")
SETTINGS = {"eps": (0.25, 0.5), "headline_eps": 0.5, "headline_num_steps": 40}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def few(digits: tuple[ImageData, ImageData]) -> ImageData:
    return digits[1].select(torch.arange(60))


@pytest.fixture(scope="module")
def found(robust_model: Classifier, few: ImageData) -> Audit:
    """The robust model's audit."""
    return audit(robust_model, few, **SETTINGS, generator=generator())


def test_every_attack_of_the_level_is_recorded_and_only_takes_away(robust_model, few, found):
    plain = outcomes(robust_model, few, **SETTINGS)
    assert [(o.labels, o.attack, o.norm, o.eps) for o in found.outcomes] == [
        *((o.labels, o.attack, o.norm, o.eps) for o in plain),
        *(("true", name, "l2", 0.5) for name in ("pgd20x3", "ddn50", "apgd_t20", "square200", WORST)),
    ]
    assert all(torch.equal(a.correct, b.correct) for a, b in zip(found.outcomes, plain, strict=False))
    at_headline = [o.correct for o in found.outcomes if o.eps == 0.5]
    both = at_headline[0] & at_headline[1]  # two PGDs, each on all images
    for after in at_headline[2:]:
        assert not (after & ~both).any()
        both = after
    assert torch.equal(at_headline[-1], at_headline[-2])
    clean = found.outcomes[0].correct
    assert torch.equal(found.norms["ddn50"] == 0, ~clean)
    assert not (at_headline[-1] & (found.norms["ddn50"] <= 0.5)).any()
    assert 0.1 < float(at_headline[-1].double().mean()) < float(clean.double().mean()) - 0.05


@pytest.mark.usefixtures("_brief")
def test_the_same_seed_gives_the_same_audit(standard_model, few):
    first, second = (audit(standard_model, few, **SETTINGS, generator=generator(3)) for _ in range(2))
    assert all(torch.equal(a.correct, b.correct) for a, b in zip(first.outcomes, second.outcomes, strict=True))
    assert torch.equal(first.norms["ddn50"], second.norms["ddn50"])
    assert first.checks == second.checks


def test_without_the_suite_there_is_only_pgd(standard_model, few):
    found = audit(standard_model, few, **SETTINGS, generator=generator(), thorough=False)
    assert {o.attack for o in found.outcomes} == {"clean", "pgd20", "pgd40"}
    assert (found.norms, found.checks, found.certificate) == ({}, [], None)


def test_what_is_not_checked_is_attacked_as_hard(robust_model, few, found):
    """DDN takes only what stands, nothing is looked at besides; nobody is given back, and few stand more."""
    lean = find(robust_model, few, **SETTINGS, generator=generator(), checked=False)
    assert (lean.norms, lean.standing, lean.signs, lean.certificate) == ({}, None, None, None)
    assert [o.attack for o in lean.outcomes] == [o.attack for o in found.outcomes]
    before = lean.outcomes[0].correct
    for outcome in [o for o in lean.outcomes if o.eps == 0.5][2:]:
        assert not (outcome.correct & ~before).any()
        before = outcome.correct
    counts = [int(one.outcomes[-1].correct.sum()) for one in (found, lean)]
    assert abs(counts[0] - counts[1]) <= 1


def test_a_second_radius_is_attacked_by_all_of_the_level(robust_model, few, found):
    both = find(robust_model, few, **SETTINGS, generator=generator(), also_at=0.75)
    *_, pgd, worst = both.outcomes
    assert [(o.attack, o.eps) for o in (pgd, worst)] == [("pgd40", 0.75), (WORST, 0.75)]
    assert len(both.outcomes) == len(found.outcomes) + 2
    assert not (worst.correct & ~pgd.correct).any()


@pytest.mark.slow
def test_a_second_radius_is_attacked_as_it_is_alone(robust_model, few):
    both = find(robust_model, few, **SETTINGS, generator=generator(), also_at=0.75)
    alone = audit(robust_model, few, **{**SETTINGS, "headline_eps": 0.75}, generator=generator())
    assert abs(int(both.outcomes[-1].correct.sum()) - int(alone.outcomes[-1].correct.sum())) <= 1


@pytest.mark.slow
def test_a_second_radius_that_a_curve_holds_is_attacked_once(robust_model, few):
    same = find(robust_model, few, num_steps=40, **SETTINGS, generator=generator(), also_at=0.25)
    names = [(o.labels, o.attack, o.eps) for o in same.outcomes]
    assert len(names) == len(set(names))  # the curve's PGD is the headline's


def test_linf_has_a_suite_too(standard_model, few):
    data = few.select(torch.arange(30))
    settings = {"norm": "linf", "eps": (0.05,), "headline_eps": 0.1, "num_steps": 5, "headline_num_steps": 10}
    found = audit(standard_model, data, **settings, generator=generator())
    assert [o.attack for o in found.outcomes][-5:] == ["pgd20x3", "fmn50", "apgd_t20", "square200", WORST]
    stood = {o.attack: o.correct for o in found.outcomes if o.eps == 0.1}
    assert not (stood[WORST] & (found.norms["fmn50"] <= 0.1)).any()


def test_l1_has_a_suite_too(standard_model, robust_model, few):
    data = few.select(torch.arange(30))
    settings = {"norm": "l1", "eps": (1.0,), "headline_eps": 2.0, "num_steps": 5, "headline_num_steps": 40}
    found = audit(standard_model, data, **settings, generator=generator(), transfer_from=robust_model)
    assert [o.attack for o in found.outcomes][-5:] == ["pgd20x3", "fmn50", "apgd_t20", "square200", WORST]
    stood = {o.attack: o.correct for o in found.outcomes if o.eps == 2.0}
    assert not (stood[WORST] & (found.norms["fmn50"] <= 2.0)).any()
    clean = found.outcomes[0].correct
    assert 0 <= int(stood[WORST].sum()) < int(stood["pgd5"].sum()) <= int(clean.sum())
    assert all(check.passed for check in found.checks if check.check.endswith(("_succeeds", "_noise", "_finite")))


class Nameless(L2Ball):
    """L2, but no library's attack is said to work in it."""

    minimised_by = attacked_by = ()


def test_a_norm_without_attacks_of_libraries_has_pgd(standard_model, few, monkeypatch):
    monkeypatch.setitem(NORMS.built_in, "nameless", Nameless)
    data = few.select(torch.arange(30))
    own, l2 = (audit(standard_model, data, norm=norm, **SETTINGS, generator=generator()) for norm in ("nameless", "l2"))
    assert [o.attack for o in own.outcomes][-2:] == ["pgd20x3", WORST]
    assert own.norms == {}
    assert all(
        torch.equal(one.correct, other.correct) for one, other in zip(own.outcomes[:-1], l2.outcomes, strict=False)
    )


def test_the_suites_pgd_climbs_the_loss_that_is_asked_for(robust_model, few):
    """Of tiny logits the cross-entropy pushes away from the mean of all classes, the margin towards the nearest."""
    model = Scaled(robust_model, 1e-6)
    curves = {}
    for loss in ("cross_entropy", "margin"):
        found = audit(model, few, loss=loss, headline_eps=0.5, generator=generator(), thorough=False)
        curves[loss] = {(o.attack, o.eps): int(o.correct.sum()) for o in found.outcomes}
    assert curves["margin"]["pgd100", 0.5] < curves["cross_entropy"]["pgd100", 0.5]


def test_two_classes_go_without_the_attack_that_needs_four(digits):
    two = digits[1].select(digits[1].labels < 2)
    data = ImageData(two.images[:20], two.labels[:20], ("0", "1"))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    found = audit(model, data, **SETTINGS, generator=generator())
    assert [o.attack for o in found.outcomes][-4:] == ["pgd20x3", "ddn50", "square200", WORST]


@pytest.mark.parametrize(
    ("which", "count"),
    [
        pytest.param("robust", 40, marks=pytest.mark.slow),
        pytest.param("robust", 200, marks=pytest.mark.slow),
        pytest.param("standard", 200, marks=pytest.mark.slow),
    ],
)
def test_quick_is_within_a_point_or_an_image_of_autoattack(which, count, standard_model, robust_model, digits):
    from pyautoattack import AutoAttack

    model, data = (standard_model if which == "standard" else robust_model), digits[1].select(torch.arange(count))
    worst = audit(model, data, **SETTINGS, generator=generator()).outcomes[-1]
    assert worst.attack == WORST
    with torch.random.fork_rng(devices=[]):
        theirs = AutoAttack(model, norm="L2", eps=0.5, version="custom", attacks=["apgd-ce", "apgd-t", "fab-t"], seed=0)
        theirs.fab.n_restarts = 1
        theirs.apgd.n_restarts = 1
        theirs.fab.n_iter = 20
        x_adv, _ = theirs.run_standard_evaluation(data.images, data.labels, batch_size=200)
    expected = float((predict(model, x_adv).argmax(dim=1) == data.labels).double().mean())
    assert float(worst.correct.double().mean()) == pytest.approx(expected, abs=max(0.01, 1 / count))


def test_a_certificate_is_made_on_request(standard_model, few):
    data = few.select(torch.arange(10))
    settings = {"headline_eps": 0.5, "num_steps": 2, "headline_num_steps": 2}
    settings["certificate"] = {"num_estimate": 200, "num_examples": 4}
    found = audit(standard_model, data, **settings, generator=generator()).certificate
    assert found is not None
    assert found.called.shape == found.radius.shape == (4,)


def test_transferred_images_fool_their_own_model_within_eps(standard_model, few):
    x_adv = transfer_images(standard_model, few, eps=0.5)
    assert float((x_adv - few.images).flatten(1).norm(dim=1).max()) <= 0.5 * (1 + 1e-5)
    assert float((predict(standard_model, x_adv).argmax(dim=1) != few.labels).double().mean()) > 0.4


@pytest.fixture
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """All attacks of the level, a few steps of each: where it matters who is attacked, and not how hard."""
    level = replace(LEVELS["quick"], restarts=(3, 2), fixed=(("apgd_t", 4),), square=20)
    monkeypatch.setitem(LEVELS, "quick", level)


@pytest.mark.usefixtures("_brief")
def test_a_stored_dataset_is_measured_as_one_in_memory(standard_model, robust_model, few, tmp_path, monkeypatch):
    monkeypatch.setattr("notbugs.evaluation.suite.PART", 12)
    few = few.select(torch.arange(30))
    table = pd.DataFrame({"index": range(len(few))})
    save_dataset(tmp_path / "d", few, table, name="D", source="digits", settings={}, shard_size=7)
    stored = load_dataset(tmp_path / "d")
    certificate = {"num_estimate": 200, "num_examples": 5}
    settings = {**SETTINGS, "batch_size": 16, "certificate": certificate}
    first, second = (
        audit(standard_model, data, **settings, generator=generator(), transfer_from=robust_model)
        for data in (few, stored)
    )
    assert first.checks == second.checks
    for one, other in zip(first.outcomes, second.outcomes, strict=True):
        assert torch.equal(one.correct, other.correct)
    assert torch.equal(first.norms["ddn50"], second.norms["ddn50"])
    assert torch.equal(first.certificate.radius, second.certificate.radius)
    assert "_data" not in vars(stored)  # never read as a whole


@pytest.mark.usefixtures("_brief")
def test_an_audit_finds_what_the_parts_find_one_by_one(standard_model, few, monkeypatch):
    """As the stage measures them: each part by itself, in any order, with a generator of its own."""
    monkeypatch.setattr("notbugs.evaluation.suite.PART", 25)
    settings = {**SETTINGS, "headline_num_steps": 20}
    whole = audit(standard_model, few, **settings, generator=generator(5))
    parts = {}
    for first in (50, 0, 25):
        own = generator_of_part(generator(5), first)
        part = few.select(slice(first, first + 25))
        parts[first] = find(standard_model, part, **settings, generator=own, first=first)
    again = audited(*(parts[first] for first in (0, 25, 50)))
    for one, other in zip(whole.outcomes, again.outcomes, strict=True):
        assert torch.equal(one.correct, other.correct), one.attack
    assert torch.equal(whole.norms["ddn50"], again.norms["ddn50"])
    assert whole.checks == again.checks
    starts = [torch.rand(4, generator=generator_of_part(generator(5), first)) for first in (0, 25, 50)]
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[1], starts[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "l3"}, r"evaluate\.norm = 'l3': must be one of l2, linf, l1 or package\.module:attribute"),
        ({"loss": "margins"}, r"evaluate\.loss = 'margins': must be one of .*; did you mean margin\?"),
        ({"level": "hard"}, r"evaluate\.level = 'hard': must be 'quick', 'standard' or 'paper'"),
        ({"check_seeds": -1}, r"evaluate\.check_seeds = -1: must be greater than or equal to 0"),
        ({"suite_seeds": -1}, r"evaluate\.suite_seeds = -1: must be greater than or equal to 0"),
        ({"certificate": {"sigma": 0.0}}, r"evaluate\.certificate\.sigma = 0\.0: must be greater than 0"),
        ({"certificate": {"alpha": 1.0}}, r"evaluate\.certificate\.alpha = 1\.0: must be less than 1"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        validate({"eps": [0.5], "headline_eps": 0.5, **change}, "evaluate", SuiteSettings)
