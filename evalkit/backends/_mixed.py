"""Mixes of formats, `mixed@BACKEND,plan=FILE`: the plan file, read and checked.

The file is YAML: `schema`, the `default` format, and `modules` with those of others by name. What
may differ from module to module are the precision and the options that the backend's SPEC lists in
`mixes`; all other options stand in the variant and hold for every module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from evalkit.analysis.footprint import NO_WORK, Scheme
from evalkit.backends import _schemes
from evalkit.backends._spec import BackendSpec, Option, method_label
from evalkit.errors import UsageError, VariantError, did_you_mean
from evalkit.paths import expanded
from evalkit.records import MIXED, UNQUANTIZED, Mix, Variant
from evalkit.records.mix import SCHEMA
from evalkit.yaml_file import read_yaml

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evalkit.models.shapes import Shape

PLAN = Option(
    "plan",
    "",
    "file that gives each module its format",
    precisions=(MIXED,),
    identifies=False,
)
_KEYS = ("schema", "default", "modules")
# The variant of each module, None for one that is not quantized.
Parts = Mapping[str, Variant | None]


def is_mixed(variant: Variant) -> bool:
    """Whether the variant gives each module a format of its own."""
    return variant.precision == MIXED


def read_mix(variant: Variant) -> Mix:
    """The plan of a mixed variant; raises VariantError in one line for what is wrong with it."""
    file = str(variant.option(PLAN.name, ""))
    if not file:
        raise VariantError(
            f"{variant.text} names no plan: write {MIXED}@{variant.backend},plan=FILE"
        )
    try:
        content = read_yaml(expanded(file))
    except UsageError as error:
        raise VariantError(str(error)) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise VariantError(f"{file} is no plan: its first line must be `schema: {SCHEMA}`")
    for key in content:
        if key not in _KEYS:
            raise VariantError(
                f"{file}: unknown key {key!r}: allowed are {', '.join(_KEYS)}"
                f"{did_you_mean(str(key), _KEYS)}"
            )
    modules = content.get("modules") or {}
    if not isinstance(modules, dict):
        raise VariantError(f"{file}: modules is no list of NAME: FORMAT lines")
    for place, name in {"default": content.get("default"), **modules}.items():
        if not isinstance(name, str):
            raise VariantError(
                f"{file}: {place} is {name!r}: give a format such as int4,group_size=64, or"
                f" {UNQUANTIZED}"
            )
    return Mix(content["default"], tuple(sorted((str(m), f) for m, f in modules.items())))


def identity(variant: Variant) -> str:
    """What identifies the plan of a mixed variant, by its content; "" for any other."""
    return read_mix(variant).identity if is_mixed(variant) else ""


def content(variant: Variant, **_: Any) -> str:
    """What identifies the plan, as backends say what identifies weights beside their options."""
    return identity(variant)


def label(variant: Variant, method: str) -> str:
    """What tables call a mixed variant, by the name of its plan's file; "" for any other."""
    if not is_mixed(variant):
        return ""
    name = expanded(str(variant.option(PLAN.name, ""))).stem
    return method_label(variant, f"{method} {name}", left_out=("method", PLAN.name))


def parts(variant: Variant, spec: BackendSpec, shapes: Mapping[str, Shape]) -> Parts:
    """The variant of each of the modules `shapes`; of one that is not mixed, itself for all.

    Raises VariantError for a module that the model does not have, a format that there is not, and
    a plan that quantizes nothing.
    """
    if not is_mixed(variant):
        return dict.fromkeys(shapes, variant)
    mix, file = read_mix(variant), variant.option(PLAN.name, "")
    made = {name: _part(variant, spec, name) for name in mix.formats}
    for name, _ in mix.modules:
        if name not in shapes:
            raise VariantError(
                f"{file}: the model has no linear layer {name!r}{did_you_mean(name, shapes)}"
            )
    found = {name: made[mix.format_of(name)] for name in shapes}
    if not any(found.values()):
        raise VariantError(f"{file} leaves every module in {UNQUANTIZED}: compare fp16 instead")
    return found


def formats(variant: Variant, spec: BackendSpec) -> tuple[Variant, ...]:
    """The quantized formats of the plan of a mixed variant; of any other, itself."""
    if not is_mixed(variant):
        return (variant,)
    made = (_part(variant, spec, name) for name in read_mix(variant).formats)
    return tuple(part for part in made if part is not None)


def refuse_widths(variant: Variant, why: Mapping[str, str], found: Parts) -> None:
    """Raise VariantError for the first module whose widths `why` says its format cannot take."""
    for name, reason in why.items():
        part = found[name]
        assert part is not None
        raise VariantError(
            f"{variant.option(PLAN.name, '')}: {format_words(part)} cannot hold {name}: {reason};"
            f" give it another format, or {UNQUANTIZED}"
        )


def refuse_random(variant: Variant) -> None:
    """Raise VariantError for a mix where random weights are asked for."""
    if is_mixed(variant):
        raise VariantError(
            f"{variant.text} cannot be made of random weights: leave it out, or give --weights"
            " checkpoint"
        )


def scheme(
    variant: Variant, spec: BackendSpec, of: Callable[[Variant], Scheme], method: str
) -> Scheme:
    """How each linear layer is stored, for the planner; `of` says it of one format.

    What kernels pad is not counted.
    """
    mix = read_mix(variant)
    made = {name: _part(variant, spec, name) for name in mix.formats}
    plain = _schemes.plain("fp16")
    known = {name: plain if part is None else of(part) for name, part in made.items()}
    return replace(
        known[mix.default],
        title=label(variant, method).removeprefix(f"{MIXED} "),
        modules={module: known[name] for module, name in mix.modules},
        cuda=NO_WORK,
    )


def check_made(model: PreTrainedModel, variant: Variant, spec: BackendSpec) -> None:
    """Raise VariantError where a module of the loaded model is not held as the plan says."""
    from torch import Tensor

    from evalkit.models.text_stack import is_full, text_modules

    layers: dict[str, Any] = {
        name: module for name, module in text_modules(model) if hasattr(module, "in_features")
    }
    shapes = {n: (one.out_features, one.in_features) for n, one in layers.items()}
    for name, part in parts(variant, spec, shapes).items():
        weight = getattr(layers[name], "weight", None)
        if (isinstance(weight, Tensor) and is_full(weight)) != (part is None):
            wanted = UNQUANTIZED if part is None else format_words(part)
            raise VariantError(
                f"{variant.text} holds {name} otherwise than its plan says ({wanted}): make the"
                " checkpoint again"
            )


def format_words(variant: Variant) -> str:
    """What a plan file calls the format of one module: "int4,group_size=64"."""
    options = [f"{k}={v}" for k, v in variant.options if k in _spec(variant).mixes]
    return ",".join([variant.precision, *options])


def _part(variant: Variant, spec: BackendSpec, words: str) -> Variant | None:
    """The variant of modules in the format `words`, with the other options of `variant`."""
    if words == UNQUANTIZED:
        return None
    from evalkit.backends._parse import parse_variant

    precision, *options = [word.strip() for word in words.split(",")]
    if precision == MIXED or "@" in precision:
        _refuse(variant, spec, words)
    for option in options:
        if option.partition("=")[0].strip() not in spec.mixes:
            _refuse(variant, spec, words)
    try:
        one = parse_variant(",".join([f"{precision}@{spec.name}", *options]))
    except UsageError as error:
        raise VariantError(f"{variant.option(PLAN.name, '')}: {words!r}: {error}") from error
    shared = {name: value for name, value in variant.options if name != PLAN.name}
    return replace(one, options=tuple(sorted({**shared, **dict(one.options)}.items())))


def _refuse(variant: Variant, spec: BackendSpec, words: str) -> NoReturn:
    precisions = ", ".join(name for name in spec.precisions if name != MIXED)
    raise VariantError(
        f"{variant.option(PLAN.name, '')}: {words!r} is no format of a module of {spec.name}:"
        f" allowed are {precisions}, with {', '.join(spec.mixes)}, and {UNQUANTIZED}"
    )


def _spec(variant: Variant) -> BackendSpec:
    from evalkit.backends._parse import spec_of

    return spec_of(variant)
