"""From words to a Variant: `PRECISION[@BACKEND][,key=value…]`, or a quantized checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from evalkit import plugins
from evalkit.backends._spec import BackendSpec, Option
from evalkit.errors import UsageError, did_you_mean, unknown
from evalkit.paths import expanded, is_dir, is_file
from evalkit.records import OptionValue, Variant

# What a precision without a backend stands for.
BARE = {
    "fp32": "fp32@transformers",
    "fp16": "fp16@transformers",
    "bf16": "bf16@transformers",
    "int8": "int8@bitsandbytes",
    "fp8": "fp8@torchao",
    "int4": "int4@gptq,group_size=128",
    "int3": "int3@gptq,group_size=128",
    "int2": "int2@gptq,group_size=128",
}
# What a bare word tries in turn: smaller groups divide more widths, NF4 takes any.
_GROUPS = (128, 64, 32)
LADDERS = {
    word: tuple(f"{word}@gptq,group_size={size}" for size in _GROUPS)
    for word in ("int4", "int3", "int2")
}
LADDERS["int4"] += ("int4@bitsandbytes",)
CHECKPOINT = "checkpoint"
# The backend of checkpoints in a file of their own, by its suffix.
GGUF, GGUF_SUFFIX = "gguf", ".gguf"


def parse_variant(text: str) -> Variant:
    """Parse one variant; `parse_variant(v.text).text == v.text` for every variant `v`.

    Raises UsageError in one line: the word, what is allowed, the nearest allowed word.
    """
    words = text.strip()
    if not words:
        raise UsageError("a variant is empty: write PRECISION[@BACKEND][,key=value…], such as int8")
    head, *assignments = [word.strip() for word in words.split(",")]
    if _names_checkpoint(words, head):
        return _checkpoint_variant(words)
    precision, at, backend = (word.strip().lower() for word in head.partition("@"))
    if at and not backend:
        raise UsageError(f"variant {words!r} names no backend after '@': write {precision}@BACKEND")
    specs = {name: spec_of(name) for name in plugins.names("backends")}
    if not backend:
        precision, backend, preset = _expand_bare(precision, specs)
        assignments = [*preset, *assignments]
        options = _options(specs[backend], precision, assignments, repeatable=len(preset))
    else:
        _check_backend(precision, backend, specs)
        options = _options(specs[backend], precision, assignments)
    return Variant(precision, backend, options, asked=words)


def ladder(variant: Variant) -> tuple[Variant, ...]:
    """What `variant` may become, the first first: more than one for a bare word such as int4.

    Options beside the word hold for every step that has them; a form that names its backend or its
    group size is itself and nothing else.
    """
    word, *assignments = [part.strip() for part in variant.asked.split(",")]
    steps = []
    for step in LADDERS.get(word.lower(), ()):
        try:
            found = parse_variant(",".join([step, *assignments]))
        except UsageError:
            # An option that this method does not have, or a group size given twice.
            continue
        steps.append(replace(found, asked=variant.asked))
    return tuple(steps) or (variant,)


def spec_of(backend: str | Variant) -> BackendSpec:
    """The declaration of a backend, or of a variant's backend; imports nothing heavy."""
    name = backend.backend if isinstance(backend, Variant) else backend
    spec: BackendSpec = plugins.load("backends", name).SPEC
    return spec


def _names_checkpoint(words: str, head: str) -> bool:
    """A path that exists, or a word with a slash; `int4` stays a precision beside a folder int4."""
    if "/" in head or head in (".", "..", "~") or words.lower().endswith(GGUF_SUFFIX):
        return True
    if head.lower() in BARE or "@" in head:
        return False
    return is_dir(Path(_path_and_options(words)[0]))


def _path_and_options(words: str) -> tuple[str, list[str]]:
    """The path or hub id, and the KEY=VALUE of a checkpoint's options; a path may hold commas."""
    known = {option.name for option in spec_of(CHECKPOINT).options_for(CHECKPOINT)}
    path, assignments = words, list[str]()
    while not is_dir(expanded(path)):
        before, _, last = path.rpartition(",")
        if not before.strip() or last.partition("=")[0].strip().lower() not in known:
            break
        path, assignments = before.strip(), [last.strip(), *assignments]
    return path, assignments


def _checkpoint_variant(asked: str) -> Variant:
    words, assignments = _path_and_options(asked)
    options = _options(spec_of(CHECKPOINT), CHECKPOINT, assignments)
    path = expanded(words)
    if _holds_gguf(path):
        return Variant(CHECKPOINT, GGUF, checkpoint=words, asked=words)
    if not is_dir(path):
        if path.suffix.lower() == GGUF_SUFFIX:
            raise UsageError(f"no file {words!r}: give the path of a GGUF file")
        if is_file(path):
            raise UsageError(f"{words!r} is a file: give the directory of a quantized checkpoint")
        if words[0] in "./~" or words.count("/") != 1 or words.endswith("/"):
            raise UsageError(
                f"no directory {words!r}: give the directory of a quantized checkpoint, a hub id "
                "NAMESPACE/NAME, or PRECISION[@BACKEND][,key=value…]"
            )
    return Variant(CHECKPOINT, CHECKPOINT, options, checkpoint=words, asked=asked)


def _holds_gguf(path: Path) -> bool:
    """Whether `path` is a GGUF file, or a directory of no other weights."""
    if not is_dir(path):
        return is_file(path) and path.suffix.lower() == GGUF_SUFFIX
    return any(path.glob(f"*{GGUF_SUFFIX}")) and not any(path.glob("*.safetensors"))


def _expand_bare(precision: str, specs: dict[str, BackendSpec]) -> tuple[str, str, list[str]]:
    if precision in BARE:
        head, *preset = BARE[precision].split(",")
        return precision, head.partition("@")[2], preset
    makers = sorted(name for name, spec in specs.items() if precision in spec.precisions)
    if makers and precision != CHECKPOINT:
        raise UsageError(
            f"precision {precision!r} needs its backend: write "
            f"{' or '.join(f'{precision}@{name}' for name in makers)}"
        )
    if precision in specs and precision != CHECKPOINT:
        made = specs[precision].precisions
        raise UsageError(
            f"{precision!r} is a backend: write PRECISION@{precision}, such as "
            f"{made[0]}@{precision}"
        )
    raise unknown("precision", precision, _all_precisions(specs))


def _all_precisions(specs: dict[str, BackendSpec]) -> set[str]:
    return {p for spec in specs.values() for p in spec.precisions} - {CHECKPOINT}


def _check_backend(precision: str, backend: str, specs: dict[str, BackendSpec]) -> None:
    if backend not in specs or backend == CHECKPOINT:
        raise unknown("backend", backend, set(specs) - {CHECKPOINT})
    if precision not in _all_precisions(specs):
        raise unknown("precision", precision, _all_precisions(specs))
    if precision not in specs[backend].precisions:
        makers = sorted(name for name, spec in specs.items() if precision in spec.precisions)
        raise UsageError(
            f"backend {backend!r} does not make {precision!r}: it makes "
            f"{', '.join(specs[backend].precisions)}; {precision} is made by {', '.join(makers)}"
        )


def _options(
    spec: BackendSpec, precision: str, assignments: list[str], repeatable: int = 0
) -> tuple[tuple[str, OptionValue], ...]:
    """Validated options, sorted by name; the first `repeatable` may be given again by the user."""
    applicable = {option.name: option for option in spec.options_for(precision)}
    values = {name: o.default for name, o in applicable.items() if o.shown}
    seen: set[str] = set()
    for position, assignment in enumerate(assignments):
        key, equals, value = (word.strip() for word in assignment.partition("="))
        key = key.lower()
        if not equals or not key or not value:
            raise UsageError(
                f"option {assignment!r} of {precision}@{spec.name} is not KEY=VALUE: allowed keys "
                f"are {', '.join(sorted(applicable)) or 'none'}{did_you_mean(key, applicable)}"
            )
        option = _option(spec, precision, key, applicable)
        if key in seen:
            raise UsageError(f"option {key!r} is given twice: give it once")
        if position >= repeatable:
            seen.add(key)
        values[key] = _value(spec, option, value)
    kept = {k: v for k, v in values.items() if applicable[k].shown or v != applicable[k].default}
    return tuple(sorted(kept.items()))


def _option(spec: BackendSpec, precision: str, key: str, applicable: dict[str, Option]) -> Option:
    if key in applicable:
        return applicable[key]
    if not applicable:
        raise UsageError(f"{precision}@{spec.name} takes no options: remove {key!r}")
    elsewhere = [option for option in spec.options if option.name == key]
    if elsewhere:
        raise UsageError(
            f"option {key!r} of {spec.name} is for {', '.join(elsewhere[0].precisions)}, not for "
            f"{precision}: allowed are {', '.join(sorted(applicable)) or 'none'}"
        )
    raise unknown(f"option of {precision}@{spec.name}", key, applicable)


def _value(spec: BackendSpec, option: Option, text: str) -> OptionValue:
    value = _typed(option, text)
    bad = option.allowed and value not in option.allowed
    if isinstance(value, int | float) and not isinstance(value, bool):
        bad = bad or (option.minimum is not None and value < option.minimum)
        bad = bad or (option.maximum is not None and value > option.maximum)
    if value is None or bad:
        hint = did_you_mean(text, [str(word) for word in option.allowed if isinstance(word, str)])
        raise UsageError(
            f"{option.name}={text} is no value of {spec.name}: allowed are {_allowed(option)}{hint}"
        )
    return value


def _typed(option: Option, text: str) -> OptionValue | None:
    """`text` as a value of the option's type, or None where it is not one."""
    if isinstance(option.default, bool):
        return {"true": True, "false": False}.get(text.lower())
    if isinstance(option.default, str):
        return text.lower() if option.allowed else text
    try:
        number = type(option.default)(text)
        return number if math.isfinite(number) else None
    except (ValueError, OverflowError):
        return None


def _allowed(option: Option) -> str:
    if isinstance(option.default, bool):
        return "true, false"
    if option.allowed:
        return ", ".join(str(value) for value in option.allowed)
    kind = "whole numbers" if isinstance(option.default, int) else "numbers"
    low, high = option.minimum, option.maximum
    if low is not None and high is not None:
        return f"{kind} from {low:g} to {high:g}"
    return f"{kind} from {low:g}" if low is not None else kind
