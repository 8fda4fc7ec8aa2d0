"""How the page says which stages it leaves out, and which numbers are of other settings (`runtime.outdated`)."""

from collections.abc import Iterator, Mapping
from pathlib import Path

MAIN = ("prepare", "train", "construct", "fit", "evaluate")
"""Stages that the table of accuracies comes from."""
NOT_RUN = "not run here"
"""Why a stage whose metrics are not there is left out."""


def metrics_file(root: Path, address: str) -> Path:
    """Of a stage, or of an entry of one."""
    return root / "metrics" / f"{address.replace('@', '/')}.json"


def of_table(found: Mapping[str, str]) -> dict[str, str]:
    """Those that the table of accuracies comes from."""
    return {address: why for address, why in found.items() if address.partition("@")[0] in MAIN}


def by_reason(found: Mapping[str, str]) -> list[tuple[list[str], str]]:
    """The stages that share a reason, and the reason."""
    groups: dict[str, list[str]] = {}
    for address, why in found.items():
        groups.setdefault(why, []).append(address)
    return [(addresses, why) for why, addresses in groups.items()]


def sentences(found: Mapping[str, str]) -> Iterator[str]:
    """A line for each reason: "transfer, planted: not run here; `notbugs repro transfer planted` runs them"."""
    for addresses, why in by_reason(found):
        them = "it" if len(addresses) == 1 else "them"
        yield f"{', '.join(addresses)}: {why}; `notbugs repro {' '.join(addresses)}` runs {them}"
