"""What stages cost, which comes first, what other numbers of slots would take: against what can be counted by hand."""

import json

import pytest

from notbugs.pipeline.cluster.dvc_steps import Step
from notbugs.pipeline.cluster.schedule import COSTS, UNKNOWN_SECONDS, Cost, read_costs, seconds_behind, write_costs
from notbugs.pipeline.cluster.simulate import UnknownCostError, longest_chain, simulate


def _steps(**waits_for: str) -> list[Step]:
    """Steps by name, in the order given; what each waits for, separated by spaces."""
    return [Step(name, frozenset(before.split()), None) for name, before in waits_for.items()]


CHAIN = _steps(a="", b="a", c="b")
APART = _steps(a="", b="", c="", d="")
DIAMOND = _steps(a="", b="a", c="a", d="b c")


def test_a_chain_takes_the_sum_with_any_number_of_slots():
    costs = {"a": Cost(2), "b": Cost(3), "c": Cost(4)}
    for slots in (1, 2, 8):
        found = simulate(CHAIN, costs, slots)
        assert found.seconds == found.bound == 9
        assert found.chain == ("a", "b", "c")
        assert found.busy == pytest.approx(1 / slots)


@pytest.mark.parametrize(("slots", "seconds"), [(1, 20), (2, 10), (3, 10), (4, 5), (9, 5)])
def test_independent_stages_share_the_slots(slots, seconds):
    found = simulate(APART, dict.fromkeys("abcd", Cost(5)), slots)
    assert found.seconds == seconds
    assert found.bound == max(5, 20 / slots)


def test_tasks_of_a_stage_are_shared_out():
    """2 s of its own, half of it before four tasks of 3 s and half behind: 1 + 12 / slots + 1."""
    costs = {"a": Cost(2, ((3.0, 3.0, 3.0, 3.0),))}
    for slots, seconds in ((1, 14), (2, 8), (4, 5), (8, 5)):
        assert simulate(_steps(a=""), costs, slots).seconds == seconds


def test_a_slot_is_free_while_others_do_the_tasks():
    """`a` leaves its slot to its one task of 4 s; `b`, of 4 s, has the other one: no second is lost."""
    costs = {"a": Cost(0, ((4.0,),)), "b": Cost(4)}
    assert simulate(_steps(a="", b=""), costs, 2).seconds == 4


def test_the_longest_chain_comes_first():
    """With one slot too few, the short stage that nobody waits for comes last: 1 + 5 beside 1 + 1, not 1 + 1 + 5."""
    steps = _steps(lonely="", first="", second="first", other="")
    costs = {"lonely": Cost(1), "first": Cost(1), "second": Cost(5), "other": Cost(1)}
    assert seconds_behind(steps, costs, 2) == {"lonely": 1, "first": 6, "second": 5, "other": 1}
    assert simulate(steps, costs, 2).seconds == 6


def test_the_longest_chain_of_a_diamond():
    costs = {"a": Cost(1), "b": Cost(2), "c": Cost(3), "d": Cost(1)}
    assert longest_chain(DIAMOND, costs, 2) == ("a", "c", "d")
    assert simulate(DIAMOND, costs, 2).seconds == 5
    assert simulate(DIAMOND, costs, 1).seconds == 7


def test_more_slots_are_never_slower():
    costs = {"a": Cost(1, ((1.0, 2.0),)), "b": Cost(2), "c": Cost(3, ((0.5,) * 7,)), "d": Cost(1)}
    seconds = [simulate(DIAMOND, costs, slots).seconds for slots in range(1, 9)]
    assert seconds == sorted(seconds, reverse=True)
    assert all(
        simulate(DIAMOND, costs, slots).seconds >= simulate(DIAMOND, costs, slots).bound for slots in range(1, 9)
    )


def test_an_unknown_cost_is_said():
    with pytest.raises(UnknownCostError, match="never ran here: b, c"):
        simulate(CHAIN, {"a": Cost(1)}, 2)


def test_a_stage_that_never_ran_counts_as_some_seconds():
    assert seconds_behind(CHAIN, {"a": Cost(1), "b": Cost(2)}, 1)["a"] == 3 + UNKNOWN_SECONDS


def test_costs_are_kept(tmp_path):
    costs = {"a": Cost(1.5), "b@x": Cost(2.0, ((1.0, 2.0), (3.0,)))}
    write_costs(tmp_path, costs)
    assert read_costs(tmp_path) == costs
    assert costs["b@x"].seconds == 8.0
    assert costs["b@x"].at_least(2) == 2 + 2 + 3


@pytest.mark.parametrize("entry", [3, {"own": "much", "tasks": []}, {"own": 1}, {"own": 1, "tasks": 4}], ids=str)
def test_a_damaged_entry_is_left_out(tmp_path, entry):
    (tmp_path / COSTS).parent.mkdir()
    (tmp_path / COSTS).write_text(json.dumps({"a": entry, "b": {"own": 1.0, "tasks": []}}))
    assert read_costs(tmp_path) == {"b": Cost(1.0)}


def test_no_costs_yet(tmp_path):
    assert read_costs(tmp_path) == {}
