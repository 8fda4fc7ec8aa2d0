"""PyYAML's safe loader: that of libyaml where PyYAML was built with it, which takes a tenth of the time."""

from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from yaml import SafeLoader as SafeLoader
else:
    SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

DEEPEST = 100
"""Sections within sections that a text may have."""


def require_shallow(text: str) -> None:
    """Look through a text of somebody's before it is loaded: libyaml's loader dies of one that is nested too deep.

    Raises: yaml.YAMLError for one deeper than `DEEPEST`, and for one that is no YAML.
    """
    depth = 0
    for event in yaml.parse(text, Loader=SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise yaml.YAMLError(f"sections within sections, more than {DEEPEST} deep")
