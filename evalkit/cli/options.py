"""From declared options to those of the command line."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from evalkit.declaration import Field, Function, declared


class Form(enum.StrEnum):
    """Output formats of results without further ones."""

    table = "table"
    json = "json"


TableOrJson = Annotated[Form, typer.Option("--format", help="Form of the result.")]
Variants = Annotated[
    list[str],
    typer.Argument(
        metavar="VARIANT…",
        help="PRECISION[@BACKEND][,key=value…] (fp16, int8, int4@gptq,group_size=64), or the"
        " directory, hub id or .gguf file of a quantized checkpoint. The first is the baseline.",
    ),
]
OneVariant = Annotated[str, typer.Argument(metavar="VARIANT", help="int8, int4@gptq,…")]
StoredComparison = Annotated[
    str | None, typer.Argument(metavar="RUN", help="A stored comparison; default the newest.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but the result and errors.")]
Store = Annotated[
    str | None,
    typer.Option("--out", metavar="DIR", help="Store; default $EVALKIT_HOME or ~/.cache/evalkit."),
]


def takes(kind: type) -> Callable[[Function], Function]:
    """Give a command that takes `**options` the options declared in `kind`, after its own."""

    def add(command: Function) -> Function:
        own = inspect.signature(command, eval_str=True)
        named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        parameters = [*named, *(_parameter(field) for field in declared(kind).values())]
        made: Any = command
        made.__signature__ = own.replace(parameters=parameters)
        made.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return add


def _parameter(field: Field) -> inspect.Parameter:
    option = field.option
    shown = typer.Option(field.flag, metavar=option.metavar, help=option.help)
    annotation, default = _word(field)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if field.required else default,
        annotation=Annotated[annotation, shown],
    )


def _word(field: Field) -> tuple[Any, Any]:
    """The type and default of an option on the command line.

    There lists of numbers, times and paths are words, which the declaration itself reads.
    """
    default = field.option.default
    if field.option.several in ("spread", "repeat"):
        return list[str] | None, None
    if field.type in (bool, int, float, str, int | None, str | None):
        return field.type, default
    if field.required:
        return str, default
    return str | None, str(default) if isinstance(default, str | float) and default else None
