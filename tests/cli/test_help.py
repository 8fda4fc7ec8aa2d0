"""`notbugs --help`: every command once, in groups."""

import re

from click.testing import CliRunner

from notbugs.cli import GROUPS, main

HELP = CliRunner().invoke(main, ["--help"]).output


def test_every_command_stands_once_in_a_group() -> None:
    shown = re.findall(r"^  ([a-z][a-z-]*)  +[A-Z]", HELP, re.MULTILINE)
    assert sorted(shown) == sorted(main.commands)
    assert "Others:" not in HELP


def test_groups_stand_in_their_order_and_say_what_each_does() -> None:
    headings = [heading for heading in GROUPS if f"{heading}:\n" in HELP]
    assert headings == list(GROUPS)
    assert [HELP.index(f"{heading}:\n") for heading in headings] == sorted(HELP.index(f"{one}:\n") for one in GROUPS)
    assert "Stage: " not in HELP
    assert "..." not in HELP.partition("Stages, which")[0].replace("[ARGS]...", "")
