"""How long the pipeline would take with other numbers of slots: simulated from what its stages took, not run.

The rules are those of `pipeline.cluster.repro`: a stage begins when what it waits for is done and a slot is free, the
one with the longest chain behind it first; while others do its tasks its slot is free, and tasks come before stages.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import simpy

from notbugs.pipeline.cluster.dvc_steps import Step
from notbugs.pipeline.cluster.schedule import Cost, seconds_behind
from notbugs.runtime.errors import UserError

TASK, STAGE = 0, 1
"""Who gets a free slot first."""


class UnknownCostError(UserError):
    """It is not known what a stage costs."""


@dataclass(frozen=True)
class Simulated:
    """What a simulation found.

    Attributes:
        slots: how many stages, or tasks of stages, were worked on at once.
        seconds: from the beginning to the end.
        bound: seconds below which no order of the stages gets: the longest chain, or all work shared out evenly.
        chain: addresses of the longest chain.
        busy: share of the slots' time that was used.
    """

    slots: int
    seconds: float
    bound: float
    chain: tuple[str, ...]
    busy: float


def simulate(steps: Sequence[Step], costs: Mapping[str, Cost], slots: int) -> Simulated:
    """Run the pipeline on paper.

    Args:
        steps: all that are to be run, in DVC's order.
        costs: of every one of them.
    Raises: UnknownCostError for a step that never ran.
    """
    unknown = [step.address for step in steps if step.address not in costs]
    if unknown:
        raise UnknownCostError(f"not known what these cost, since they never ran here: {', '.join(unknown)}")
    seconds = _run(steps, costs, slots)
    work = sum(costs[step.address].seconds for step in steps)
    chain = longest_chain(steps, costs, slots)
    length = sum(costs[address].at_least(slots) for address in chain)
    return Simulated(slots, seconds, max(length, work / slots), chain, work / (slots * seconds) if seconds else 0.0)


def longest_chain(steps: Sequence[Step], costs: Mapping[str, Cost], slots: int) -> tuple[str, ...]:
    """The chain of steps, each waiting for the one before, that takes longest with so many slots."""
    behind = seconds_behind(steps, costs, slots)
    chain: list[str] = []
    after = [step.address for step in steps if not step.waits_for]
    while after:
        chain.append(max(after, key=lambda address: behind[address]))
        after = [step.address for step in steps if chain[-1] in step.waits_for]
    return tuple(chain)


def _run(steps: Sequence[Step], costs: Mapping[str, Cost], slots: int) -> float:
    """Seconds until all steps are done."""
    world = simpy.Environment()
    begun = simpy.PriorityResource(world, slots)  # stages that have begun and not ended
    working = simpy.PriorityResource(world, slots)
    ended = {step.address: world.event() for step in steps}
    behind = seconds_behind(steps, costs, slots)

    def work(seconds: float, priority: int) -> "Generator[simpy.Event]":
        """Hold a slot for so long."""
        with working.request(priority) as slot:
            yield slot
            yield world.timeout(seconds)

    def stage(step: Step) -> "Generator[simpy.Event]":
        """Its own work in equal parts: before, between and behind its groups of tasks."""
        yield world.all_of([ended[address] for address in step.waits_for])
        cost = costs[step.address]
        part = cost.own / (len(cost.tasks) + 1)
        with begun.request(round(-1000 * behind[step.address])) as place:
            yield place
            yield from work(part, STAGE)
            for group in cost.tasks:
                yield world.all_of([world.process(work(seconds, TASK)) for seconds in group])
                yield from work(part, STAGE)
        ended[step.address].succeed()

    for step in steps:
        world.process(stage(step))
    world.run()
    return float(world.now)
