"""params.yaml changed as a text: comments, order and layout stay as they are."""

import io
from collections.abc import Collection, Mapping
from typing import Any

from notbugs.runtime.errors import ConfigError


def assignment(item: str, place: str, allowed: Collection[str] = (), option: str = "--set") -> tuple[str, Any]:
    """The key and the value of "key=value", as a user writes it behind an option; no value is null.

    Args:
        place: what errors call that which has the keys.
        allowed: the keys; any where there are none.
        option: the option that it stands behind.
    Raises: ConfigError.
    """
    from ruamel.yaml.error import YAMLError

    key, equals, value = item.partition("=")
    if not equals or (allowed and key not in allowed):
        raise ConfigError(f"{option} {item}: expected KEY=VALUE with a key of{place}")
    try:
        return key, _yaml().load(value)
    except (YAMLError, ValueError):
        raise ConfigError(f"{option} {item}: the value is not valid YAML") from None


def with_keys(text: str, changed: Mapping[str, Any]) -> str:
    """The text with dotted keys set; a section or key that is missing is added. What is so already stays as written."""
    from ruamel.yaml.comments import CommentedMap

    yaml = _yaml()
    document = yaml.load(text)
    for key, value in changed.items():
        *parents, last = key.split(".")
        section = document
        for part in parents:
            if section.get(part) is None:
                section[part] = CommentedMap()
            section = section[part]
        if repr(section.get(last)) != repr(value):  # 10 and 10.0 are different settings
            section[last] = _in_layout(value)
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


NULL = "tag:yaml.org,2002:null"
"""YAML's name of null, which ruamel.yaml writes as nothing at all unless it is told otherwise."""


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000  # no line is broken
    yaml.representer.add_representer(type(None), lambda writer, _: writer.represent_scalar(NULL, "null"))
    return yaml


def _in_layout(value: Any) -> Any:
    """The value as it is to be written: as its text had it; else a list in one line."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(value, CommentedMap | CommentedSeq):
        return value
    if isinstance(value, Mapping):
        return CommentedMap({key: _in_layout(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        sequence = CommentedSeq(value)
        sequence.fa.set_flow_style()
        return sequence
    return value
