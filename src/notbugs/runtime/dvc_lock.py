"""What dvc.lock says of stages, and DVC's hashes of files and folders; without importing DVC, which takes seconds."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HASH_LIMIT = 256 * 2**20
"""Bytes up to which a file or folder is hashed (about half a second); larger ones are known by their size."""
BACKGROUND_HASH_LIMIT = 8 * 2**30
"""The same where nothing waits for it (about a quarter of a minute)."""


@dataclass(frozen=True)
class Content:
    """What lies at a path, as dvc.lock describes it.

    Attributes:
        md5: DVC's hash (of a folder: ending in `.dir`), None where it is too large to be hashed here.
        size: bytes.
        nfiles: number of files of a folder, None for a file.
    """

    md5: str | None
    size: int
    nfiles: int | None = None

    def fits(self, other: "Content") -> bool:
        """Whether both can be the same content: equal hashes, or equal sizes where one hash is unknown."""
        if self.md5 and other.md5:
            return self.md5 == other.md5
        return (self.size, self.nfiles) == (other.size, other.nfiles)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Content":
        """From its fields, as a journal has them, or from an entry of dvc.lock."""
        md5 = value.get("md5") or value.get(str(value.get("hash", "md5")))
        return cls(md5, int(value.get("size") or 0), value.get("nfiles"))

    @property
    def label(self) -> str:
        """The hash, or what stands for it."""
        return self.md5 or f"size-{self.size}"


def content(path: Path, limit: int = HASH_LIMIT) -> Content | None:
    """Hash a file or folder the way DVC does; None if nothing is there.

    A folder's hash is the MD5 of the JSON list of its files ({"md5", "relpath"}, by relpath), plus ".dir".

    Args:
        path: file or folder.
        limit: bytes above which only the size is taken.
    """
    if path.is_file():
        size = path.stat().st_size
        return Content(md5(path) if size <= limit else None, size)
    if not path.is_dir():
        return None
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    size = sum(file.stat().st_size for file in files.values())
    if size > limit:
        return Content(None, size, len(files))
    entries = [{"md5": md5(file), "relpath": name} for name, file in sorted(files.items())]
    digest = hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
    return Content(f"{digest}.dir", size, len(files))


def contents(root: Path, paths: Iterable[Path], limit: int = HASH_LIMIT) -> dict[str, Content]:
    """What lies at some paths, by their names relative to `root`; without what is not there or cannot be read."""
    root, found = root.absolute(), {}
    for path in map(Path.absolute, paths):
        with suppress(OSError):
            there = content(path, limit)
            if there is not None:
                found[(path.relative_to(root) if path.is_relative_to(root) else path).as_posix()] = there
    return found


def md5(path: Path) -> str:
    """Hexadecimal MD5 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def command_of(stage: str, name: str | None) -> str:
    """The command that does a stage, of one with entries that of an entry."""
    return f"notbugs {stage} {name or ''}".rstrip()


@dataclass(frozen=True)
class LockEntry:
    """One stage in dvc.lock.

    Attributes:
        address: such as `prepare` or `construct@rand`.
        params: {file: {dotted key: value}}.
        deps, outs: path -> content.
        key: `pipeline.key`, the SHA-256 of address, cmd, params and hashes of deps.
    """

    address: str
    params: dict[str, dict[str, Any]]
    deps: dict[str, Content]
    outs: dict[str, Content]
    key: str

    @property
    def stage(self) -> str:
        """The stage without the name of the foreach entry."""
        return self.address.partition("@")[0]

    @property
    def name(self) -> str | None:
        """The name of the foreach entry."""
        return self.address.partition("@")[2] or None

    @property
    def command(self) -> str:
        """The command that does it, without options: "notbugs construct rand"."""
        return command_of(self.stage, self.name)

    def hash_tags(self) -> dict[str, str]:
        """`dvc.dep.<path>` and `dvc.out.<path>`."""
        deps = {f"dvc.dep.{path}": found.label for path, found in self.deps.items()}
        return deps | {f"dvc.out.{path}": found.label for path, found in self.outs.items()}


class LockError(ValueError):
    """dvc.lock cannot be read."""


def read_lock(path: Path) -> list[LockEntry]:
    """The stages in dvc.lock, in its order; none if there is no file.

    Raises: LockError if it is no lock file.
    """
    import yaml

    from notbugs.runtime.yaml_loader import SafeLoader

    try:
        lock = yaml.load(path.read_text(encoding="utf-8"), Loader=SafeLoader)
        stages = (lock or {}).get("stages") or {}
        return [_entry(str(address), stage) for address, stage in stages.items()]
    except FileNotFoundError:
        return []
    except (OSError, yaml.YAMLError, AttributeError, TypeError, KeyError, ValueError) as error:
        raise LockError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from None


def _entry(address: str, stage: Mapping[str, Any]) -> LockEntry:
    deps = {str(dep["path"]): Content.from_json(dep) for dep in stage.get("deps") or []}
    outs = {str(out["path"]): Content.from_json(out) for out in stage.get("outs") or []}
    params = stage.get("params") or {}
    made_from = {
        "stage": address,
        "cmd": stage.get("cmd"),
        "params": params,
        "deps": {path: found.md5 for path, found in deps.items()},
    }
    canonical = json.dumps(made_from, sort_keys=True, separators=(",", ":"), default=str)
    key = hashlib.sha256(canonical.encode()).hexdigest()
    return LockEntry(address, params, deps, outs, key)
