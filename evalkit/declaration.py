"""How an option is declared once, and what follows from it.

A command's options are a TypedDict whose fields are `Annotated[TYPE, Option(...)]`. It is unpacked
in the signature of the Python function, so that mypy checks every name and type; the signature that
`help()` and completion show, the check of what is given, the recorded command line and the options
of the command line (evalkit.cli.options) are made from the same fields.
"""

from __future__ import annotations

import inspect
import shlex
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Required, TypeVar, cast

from evalkit.errors import UsageError, did_you_mean, unknown

# One word or several; a value that is given is stored as a tuple of strings.
Words = str | Path | Sequence[str | Path]
Numbers = str | int | Sequence[int]
# How several words stand on the command line: `--tasks A,B`, `--text A B`, `--serve A --serve B`.
Several = Literal["", "comma", "spread", "repeat"]

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """One option of a command.

    `flag` is its name on the command line where that is not its own; `parse` brings a value into
    its canonical form, or raises UsageError; `least` bounds a number and `choices` list the
    allowed words. `neutral` says why no number depends on it: an option without it changes the
    key of some result.
    """

    help: str
    default: Any = None
    metavar: str | None = None
    flag: str | None = None
    least: float | None = None
    choices: tuple[str, ...] = ()
    several: Several = ""
    parse: Callable[[Any], Any] | None = None
    neutral: str = ""


@dataclass(frozen=True)
class Field:
    """An option with its name and type."""

    name: str
    type: Any
    option: Option
    required: bool = False

    @property
    def flag(self) -> str:
        """What it is called on the command line."""
        return self.option.flag or f"--{self.name.replace('_', '-')}"


def declared(kind: type) -> dict[str, Field]:
    """The options of the TypedDict `kind` by name, in the order of their declaration."""
    found = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        required = typing.get_origin(hint) is Required
        annotated = typing.get_args(typing.get_args(hint)[0] if required else hint)
        option = next((extra for extra in annotated[1:] if isinstance(extra, Option)), None)
        if option is None:
            raise TypeError(f"{kind.__name__}.{name} is declared without an Option")
        found[name] = Field(name, annotated[0], option, required)
    return found


def resolved(kind: type[T], given: Mapping[str, Any]) -> T:
    """Every option of `kind`: its checked value, or its default where it is absent or None.

    Raises UsageError for a name that is no option, and for a value that is none of the option's.
    """
    fields = declared(kind)
    for name in given:
        if name not in fields:
            raise unknown("option", name, fields)
    return cast(T, {name: checked(field, given.get(name)) for name, field in fields.items()})


def checked(field: Field, value: Any) -> Any:
    """`value` in its canonical form; the default for None. Raises UsageError."""
    option = field.option
    if value is None and field.required:
        raise UsageError(f"{field.flag} is missing: give it")
    if value is None:
        value = option.default
    if option.several:
        if not isinstance(value, str | Path | list | tuple):
            raise UsageError(f"{field.flag} {value!r}: give a word or a list of words")
        value = words(value, option.several)
    elif value is not None:
        _check_type(field, value)
    if option.least is not None and value is not None and value < option.least:
        raise UsageError(f"{field.flag} {value}: give at least {option.least:g}, or leave it out")
    if option.choices and value is not None and value not in option.choices:
        hint = did_you_mean(str(value), option.choices)
        listed = ", ".join(option.choices)
        raise UsageError(f"{field.flag} {value!r}: allowed are {listed}{hint}")
    return value if option.parse is None else option.parse(value)


def words(value: Words | None, several: Several = "spread") -> tuple[str, ...]:
    """One word, a list of words, or words joined by commas, as a tuple."""
    if value is None:
        return ()
    if isinstance(value, str | Path):
        listed = str(value).split(",") if several == "comma" else [str(value)]
    else:
        listed = [str(one) for one in value]
    return tuple(word.strip() if several == "comma" else word for word in listed if word.strip())


def documented(kind: type) -> Callable[[Function], Function]:
    """Let a function that takes `**options` of `kind` show every one of them.

    Its signature lists the options with types and defaults, its docstring what each one means.
    """

    def document(function: Function) -> Function:
        fields = declared(kind).values()
        own = inspect.signature(function)
        named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        given = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.required else field.option.default,
                annotation=field.type,
            )
            for field in fields
        ]
        shown: Any = function
        shown.__signature__ = own.replace(parameters=[*named, *given])
        lines = [f"    {field.name}: {field.option.help}" for field in fields]
        text = inspect.cleandoc(function.__doc__ or "")
        function.__doc__ = "\n".join([text, "", "Options:", *lines])
        return function

    return document


def command_line(command: str, arguments: Iterable[str], kind: type, options: Any) -> str:
    """The command line that repeats a call: its arguments and what differs from the default."""
    line = ["evalkit", command, *arguments]
    for field in declared(kind).values():
        value = options[field.name]
        if not field.required and value == checked(field, None):
            continue
        if value is True:
            line.append(field.flag)
        elif field.option.several == "repeat":
            line += [word for one in value for word in (field.flag, one)]
        elif field.option.several == "spread":
            line += [field.flag, *value]
        elif isinstance(value, tuple):
            line += [field.flag, ",".join(map(str, value))]
        else:
            line += [field.flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(line)


def _check_type(field: Field, value: Any) -> None:
    """Raise UsageError where `value` is none of the option's types; a bool is no number."""
    kinds = _members(field.type)
    fits = any(
        isinstance(value, kind) and (kind is bool) == isinstance(value, bool) for kind in kinds
    )
    if not fits and not (float in kinds and type(value) is int):
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
        allowed = " or ".join(names.get(kind, "a path") for kind in kinds)
        raise UsageError(f"{field.flag} {value!r}: give {allowed}")


def _members(hint: Any) -> tuple[type, ...]:
    """The classes of a type or union, without None."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = typing.get_args(hint) if union else (hint,)
    return tuple(typing.get_origin(p) or p for p in parts if p is not type(None))
