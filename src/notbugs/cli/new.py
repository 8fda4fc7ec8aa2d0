"""`notbugs new`: a project of the user's, in which the installed package works."""

import io
import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from notbugs.cli.project import PathFromHome
from notbugs.runtime.errors import UserError

HEAD = """\
# The pipeline. `dvc repro` runs it, `dvc dag` draws it. A stage depends on its own part of params.yaml, on its input
# data, and on its code: `code` writes code.json, by which DVC sees an upgrade of notbugs and a change in src.
"""
DESCRIPTION = "Write down what code each stage runs, of notbugs and of src."


class NewProjectError(UserError):
    """A project cannot be written."""


@click.command()
@click.argument("folder", metavar="DIR", type=PathFromHome())
@click.option("--preset", default="digits", show_default=True, metavar="NAME", help="What params.yaml is to be.")
def new(folder: Path, preset: str) -> None:
    """Write a project into the new or empty folder DIR: pipeline, settings, an example of your own code, its tests."""
    from notbugs.cli.plots import put_library

    git = write_project(folder, preset)
    put_library(folder)
    click.echo(f"{folder}: a project of the preset {preset}{', with Git' if git else ', without Git'}; next:")
    click.echo(f"  cd {shlex.quote(str(folder))} && dvc repro")


def write_project(folder: Path, preset: str) -> bool:
    """Write a project, whole or not at all.

    Args:
        folder: a new or empty one.
        preset: what params.yaml is taken from.
    Returns: whether Git looks after it.
    Raises: NewProjectError for a folder that holds something, ConfigError for an unknown preset.
    """
    from notbugs.cli.presets import preset_text
    from notbugs.cli.shipped import project_files, shipped

    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise NewProjectError(f"{folder}: must be a new or empty folder; it holds something already")
    texts = {"params.yaml": preset_text(folder, preset), "dvc.yaml": pipeline(shipped("dvc.yaml").read_text("utf-8"))}
    texts["requirements.txt"] = f"{_requirement()}\npytest\n"
    with _whole(folder) as made:
        for name, file in project_files().items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, made / name)
        for name, text in texts.items():
            (made / name).write_text(text, encoding="utf-8")
        return _begin_git(made, folder)


def pipeline(text: str) -> str:
    """The package's own dvc.yaml as a project has it that holds no src/notbugs.

    Args:
        text: in which stages depend on src/notbugs/...
    Returns: the same with a stage `code` before them, and with its code.json among their params in place of these.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    from notbugs.pipeline.running.own_code import CODE_FILE

    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 110
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(text[text.index("stages:") :])
    stages: Any = document["stages"]
    for name, stage in stages.items():
        entry = stage.get("do", stage)
        own = [dep for dep in entry["deps"] if not dep.startswith("src/notbugs")]
        if own:
            entry["deps"] = CommentedSeq(own)
            entry["deps"].fa.set_flow_style()
        else:
            del entry["deps"]
        key = CommentedSeq([f"stages.{name}" + (".${key}" if "foreach" in stage else "")])
        key.fa.set_flow_style()
        entry["params"].append(CommentedMap({CODE_FILE: key}))
    outs = CommentedSeq([CommentedMap({CODE_FILE: CommentedMap(cache=False)})])
    first = CommentedMap(desc=DESCRIPTION, cmd="notbugs code", always_changed=True, outs=outs)
    stages.insert(0, "code", first)
    stages.yaml_set_comment_before_after_key("prepare", before="\n")
    out = io.StringIO()
    yaml.dump(document, out)
    return HEAD + out.getvalue()


def _requirement() -> str:
    """How this package can be had again: from where it came, as its installer noted it (PEP 610), or by its version."""
    from importlib.metadata import distribution

    found = distribution("notbugs")
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if "vcs_info" in origin:
        return f"notbugs @ {origin['vcs_info']['vcs']}+{origin['url']}@{origin['vcs_info']['commit_id']}"
    return f"notbugs @ {origin['url']}" if "url" in origin else f"notbugs=={found.version}"


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Where to write what `folder` holds at the end, or not at all; a folder that is there stays the same one."""
    from notbugs.runtime.files import whole_folder

    if not folder.exists():
        with whole_folder(folder) as made:
            yield made
        return
    with TemporaryDirectory(dir=folder, prefix=".new-") as name:
        yield Path(name)
        for part in Path(name).iterdir():
            part.rename(folder / part.name)


def _begin_git(made: Path, folder: Path) -> bool:
    """Let Git look after a project: the repository around it, or one of its own; else tell DVC that none does.

    Args:
        made: where the project is written.
        folder: where it will be.
    """
    from notbugs.runtime.git import git

    around = folder.parent
    is_seen = git(around, "rev-parse", "--show-toplevel") and git(around, "check-ignore", str(folder)) is None
    if is_seen or git(made, "init", "--quiet") is not None:
        return True
    config = made / ".dvc" / "config"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("[core]\n", "[core]\n    no_scm = true\n"), encoding="utf-8")
    return False
