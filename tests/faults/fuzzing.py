"""What the fuzz tests share: strange values, edits of bytes, and a count of what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from guard import only_within
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from notbugs.runtime.errors import UserError

Edits = list[tuple[str, float, int]]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([0, -1, 1e999, 2**63, 10**400, "nan", "../..", "/etc/passwd", "\0", "true", "1e-3", "\ud800"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=6,
)
EDITS = st.lists(
    st.tuples(st.sampled_from(["set", "flip", "cut", "insert", "repeat", "end"]), st.floats(0, 1), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


def fuzz(thorough: int) -> settings:
    """That many examples in `make test-all`, a fifth of them in `make test`."""
    examples = thorough if settings.get_current_profile_name() == "thorough" else thorough // 5
    return settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)


def edited(content: bytes, edits: Edits) -> bytes:
    """Bytes with some of them changed, left out or doubled, or the end cut off."""
    for kind, place, byte in edits:
        at = min(int(place * len(content)), max(len(content) - 1, 0))
        head, tail = content[:at], content[at:]
        content = (
            head
            + {
                "set": bytes([byte]) + tail[1:],
                "flip": bytes(b ^ (1 << byte % 8) for b in tail[:1]) + tail[1:],
                "cut": tail[byte:],
                "insert": bytes([byte]) * (1 + byte % 9) + tail,
                "repeat": tail[: 4 * byte] + tail,
                "end": b"",
            }[kind]
        )
    return content


def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key and list item of nested settings."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in items for place in ((*at, key), *places(value, (*at, key)))]


def section_at(tree: Any, place: tuple[Any, ...]) -> Any:
    """What holds the last part of a place."""
    for key in place[:-1]:
        tree = tree[key]
    return tree


class Refusals:
    """Counts the inputs that are refused, by errors of the kinds that are allowed; any other error goes on.

    Args:
        folder: the only one that may be written in meanwhile.
        kinds: errors allowed.
        one_line: whether their messages must be.
    """

    def __init__(self, folder: Path, *kinds: type[UserError], one_line: bool = True) -> None:
        self.folder = folder
        self.kinds = kinds
        self.one_line = one_line
        self.tried = 0
        self.count = 0

    @property
    def share(self) -> float:
        """Of the inputs."""
        return self.count / self.tried

    def of(self, read: Callable[[], object]) -> None:
        self.tried += 1
        message = ""
        with only_within(self.folder):
            try:
                read()
            except self.kinds as error:
                self.count += 1
                message = str(error)
        assert message.isprintable() or (not self.one_line and message.replace("\n", "").isprintable())
