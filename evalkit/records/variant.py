"""A variant: one way to hold the weights of a model."""

from __future__ import annotations

from dataclasses import dataclass

OptionValue = str | int | float | bool


@dataclass(frozen=True)
class Variant:
    """One way to hold the model's weights: a precision made by a backend with options.

    `asked` is what the user typed; `options` hold every option of the backend that differs from
    its default or names the method (group_size), sorted by name. A checkpoint that is already
    quantized has precision "checkpoint" and its directory or hub id in `checkpoint`.
    """

    precision: str
    backend: str
    options: tuple[tuple[str, OptionValue], ...] = ()
    checkpoint: str | None = None
    asked: str = ""

    @property
    def text(self) -> str:
        """The canonical text form, `PRECISION@BACKEND[,key=value…]`; parses back to itself."""
        words = [self.checkpoint or f"{self.precision}@{self.backend}"]
        words += [f"{key}={_option_text(value)}" for key, value in self.options]
        return ",".join(words)

    @property
    def label(self) -> str:
        """What tables and charts call it: the words asked for, else the canonical form."""
        return self.asked or self.text

    def option(self, name: str, default: OptionValue) -> OptionValue:
        """The value of option `name`, or `default` where it is not set."""
        return dict(self.options).get(name, default)


def _option_text(value: OptionValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
