"""What a stage is, declared once: its command, what it tracks and keeps, what `check` validates, its entry in dvc.yaml.

The list of all is `pipeline.stages`. Importing this is quick, for the command line reads it to show its help.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of dvc.yaml. Paths may hold {name}, which stands for an entry of the stage's section.

    Attributes:
        name: of the stage and of its command.
        does: what the help of its command says.
        work: package.module:function that does it, called with a `Job`.
        study: of a question of the science: the function that `pipeline.science` answers it by.
        settings: package.module:Class of its section; or a function (params, key) -> settings.
        section: of params.yaml; the stage's name if left out.
        by_name: it is run for each entry of its section.
        shared, reads: what it depends on besides its section: keys that all stages share, and others.
        inputs: what it reads of what other stages wrote.
        outputs: what it writes, besides its metrics file.
        metrics_file: JSON whose numbers are tracked.
        paired: source model -> the construction whose source seed it is taken of, where one model is looked at.
        options: what dvc.yaml adds to the command.
        resumes: its unfinished work is kept, and taken up again after a kill.
        processes: several processes can share it (`processes` in params.yaml).
        workers: worker processes do its tasks (`jobs` in params.yaml).
    """

    name: str
    does: str
    work: str
    settings: str
    study: str = ""
    section: str = ""
    by_name: bool = False
    shared: tuple[str, ...] = ("seed", "num_threads", "device", "precision")
    reads: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    metrics_file: str = ""
    paired: Mapping[str, str] | None = None
    options: str = ""
    resumes: bool = False
    processes: bool = False
    workers: bool = False

    @property
    def help(self) -> str:
        """Of its command."""
        return f"Stage: {self.does}"

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that do the work: with all that they import they are the code that it depends on."""
        return tuple(place.partition(":")[0] for place in (self.work, self.study) if place)

    @property
    def params(self) -> tuple[str, ...]:
        """All keys of params.yaml that it depends on."""
        return (*self.shared, *self.reads, self.key("{name}"))

    def keys(self, name: str | None) -> list[str]:
        """The keys of params.yaml that it depends on when it is run for an entry, or as a whole."""
        return [key.replace("{name}", name or "") for key in self.params]

    def key(self, name: str | None = None) -> str:
        """Dotted key of its section, or of an entry there."""
        section = self.section or self.name
        return f"{section}.{name}" if self.by_name else section

    def read_settings(self, params: Mapping[str, Any], name: str | None = None) -> Any:
        """Its settings, validated.

        Raises: ConfigError naming the key, the value and what is allowed.
        """
        from notbugs.runtime.config import settings

        reader = resolve_name(self.settings)
        key = self.key(name)
        return settings(params, key, reader) if isinstance(reader, type) else reader(params, key)
