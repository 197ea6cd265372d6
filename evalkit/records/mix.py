"""A mix: the format of each module of a model, as a plan file says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from evalkit.records.serialization import content_hash

MIXED = "mixed"
SCHEMA = "evalkit.mix/1"
# The format of a module that is left as it is.
UNQUANTIZED = "16bit"


@dataclass(frozen=True)
class Mix:
    """Formats of modules: `default` is that of every module that `modules` does not name.

    A format is PRECISION[,key=value…] without the backend, such as "int4,group_size=64", or
    "16bit" for a module that is not quantized. `modules` are sorted by name.
    """

    default: str
    modules: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, formats: Mapping[str, str]) -> Mix:
        """The mix of these formats by module; the most frequent one is the default."""
        default = Counter(formats.values()).most_common(1)[0][0]
        return cls(default, tuple(sorted((m, f) for m, f in formats.items() if f != default)))

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats that it names, the default first."""
        return tuple(dict.fromkeys((self.default, *(name for _, name in self.modules))))

    @property
    def identity(self) -> str:
        """Hash of what it says, whatever file it stands in."""
        named = [one for one in self.modules if one[1] != self.default]
        return content_hash([self.default, named])

    @property
    def text(self) -> str:
        """The mix as a plan file, in YAML."""
        lines = [
            f"schema: {SCHEMA}",
            "# of every module that is not named below",
            f"default: {self.default}",
            "modules:" if self.modules else "modules: {}",
        ]
        return "\n".join([*lines, *(f"  {name}: {form}" for name, form in self.modules)]) + "\n"

    def format_of(self, module: str) -> str:
        """The format of `module`."""
        return dict(self.modules).get(module, self.default)
