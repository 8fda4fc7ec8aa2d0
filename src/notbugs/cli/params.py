"""`notbugs check` and `notbugs preset`: params.yaml validated, and written from a preset."""

import contextlib
from pathlib import Path

import click

import notbugs
from notbugs.cli.project import project_root
from notbugs.runtime.errors import UserError


@click.command()
def check() -> None:
    """Validate params.yaml; and against D, where `prepare` has made it, what would stop a later stage."""
    root = project_root()
    mark, fingerprint = root / ".notbugs" / "checked", _check_fingerprint(root)
    known, _, told = mark.read_text(encoding="utf-8").partition("\n") if mark.exists() else ("", "", "")
    if known == fingerprint:
        _say(told)
        return
    from notbugs.cli.check import check as validate
    from notbugs.cli.check import check_data, check_files, deviations
    from notbugs.runtime.config import read_params
    from notbugs.runtime.files import WriteError, write_text
    from notbugs.runtime.registry import own_modules

    params = read_params(root / "params.yaml")
    validate(params, root)
    check_data(params, root)
    told = deviations(params)
    _say(told)
    in_src = {file.stem for file in (root / "src").glob("*")}
    elsewhere = any(module.partition(".")[0] not in in_src for module in own_modules(params))
    if not check_files(params, root) and not elsewhere:  # what such files hold is no part of the fingerprint
        with contextlib.suppress(WriteError):  # it was only to save time
            write_text(mark, f"{fingerprint}\n{told}")


def _say(line: str) -> None:
    if line:
        click.echo(line)


def _check_fingerprint(root: Path) -> str:
    """Changes with params.yaml, dvc.yaml, D, the package and the user's own code in src: what was valid under all of
    these need not load torch again."""
    import hashlib

    imported = sorted((root / "data").glob("*/source-*/manifest.json"))
    splits = (root / "data" / split / "manifest.json" for split in ("train", "test"))
    files = [root / "params.yaml", root / "dvc.yaml", *imported, *splits]
    text = b"\n".join(file.read_bytes() if file.is_file() else b"" for file in files)
    modules = sorted({*Path(notbugs.__file__).parent.rglob("*.py"), *(root / "src").rglob("*.py")})
    stats = [(module.name, module.stat().st_size, module.stat().st_mtime_ns) for module in modules]
    return hashlib.sha256(text + repr(stats).encode()).hexdigest()


@click.command()
@click.argument("name", required=False)
@click.option("--list", "list_them", is_flag=True, help="Show what each preset runs and costs.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a key on the way.")
@click.option("--pictures", metavar="PATH", help="Take D from a folder or archive of pictures (train/, test/) instead.")
@click.option("--smoke", is_flag=True, help="Make it small: three minutes from end to end, to see that it runs.")
@click.option("--missing", is_flag=True, help="Only add the sections that params.yaml lacks.")
def preset(
    name: str | None, list_them: bool, changes: tuple[str, ...], pictures: str | None, smoke: bool, missing: bool
) -> None:
    """Write params.yaml from the preset NAME; `dvc repro` then runs it."""
    from notbugs.cli.presets import add_missing, presets, write_preset

    root = project_root()
    if list_them or name is None:
        for item in presets(root):
            click.secho(item.name, bold=True)
            for line in item.summary:
                click.echo(f"    {line}")
        if name is None:
            return
    if missing:
        if changes or pictures or smoke:
            raise UserError("notbugs preset: --missing takes no --set, --pictures or --smoke")
        added = add_missing(root, name)
        click.echo(f"params.yaml: added {', '.join(added)}" if added else "params.yaml lacks nothing")
        return
    from notbugs.cli.check import deviations
    from notbugs.runtime.config import read_params

    backup = write_preset(root, name, changes, pictures=pictures, smoke=smoke)
    click.echo(f"params.yaml is now the preset {name}; next: dvc repro")
    _say(deviations(read_params(root / "params.yaml")))
    if backup:
        click.echo(f"your own params.yaml was kept as {backup.name}")
