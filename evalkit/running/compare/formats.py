"""`--formats`: every format that this machine can make of a model, and why the others cannot be.

Backends are found as plugins. Each precision of a backend is one format with the default options;
others that belong to the list stand in its SPEC (`formats`). Where groups of the default size do
not divide the model's layers, the next smaller size that does stands for it, as with a bare word.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from evalkit import plugins
from evalkit.backends import (
    BackendSpec,
    Capability,
    check_device,
    check_installed,
    kernel_for,
    parse_variant,
    settled,
    spec_of,
)
from evalkit.errors import EvalkitError
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.shapes import decoder_shapes
from evalkit.records import MIXED, Variant
from evalkit.running.gpus import gpu_of
from evalkit.running.job import Subject

SEED = "calibration_seed"
_NO_FORMATS = ("fp32", "fp16", "bf16", "checkpoint", MIXED)
_SMALLER_GROUPS = (64, 32)


def with_formats(
    asked: Sequence[Variant], subject: Subject
) -> tuple[list[Variant], tuple[str, ...]]:
    """`asked` and every other quantized format of the model, and a line for each that is left out.

    Nothing is loaded.
    """
    gpu = gpu_of(subject.gpu) if subject.gpu else None
    possible, refused = all_formats(
        subject.checkpoint, subject.device, gpu.capability if gpu else None
    )
    known = {_settled_text(subject.checkpoint, variant) for variant in asked}
    notes = (f"--formats leaves out {text}: {why}" for text, why in refused)
    return [*asked, *(one for one in possible if one.text not in known)], tuple(notes)


def all_formats(
    checkpoint: Checkpoint, device: str, capability: Capability
) -> tuple[tuple[Variant, ...], tuple[tuple[str, str], ...]]:
    """The formats that can be made, and the canonical form of each other with the reason.

    `capability` is that of the card, None on a CPU.
    """
    possible: dict[str, Variant] = {}
    refused: dict[str, str] = {}
    for choices in _candidates():
        try:
            found = _first_possible(checkpoint, device, capability, choices)
            possible[found.text] = found
        except EvalkitError as error:
            refused[choices[-1].text] = str(error).partition("; use ")[0]
    return tuple(possible.values()), tuple(refused.items())


def with_seeds(variants: Sequence[Variant], seeds: int) -> list[Variant]:
    """`variants`, those that are calibrated once for each of `seeds` draws of their samples.

    One that names its seed stays as it is.
    """
    found: list[Variant] = []
    for variant in variants:
        found.append(variant)
        own = {option.name for option in spec_of(variant).options_for(variant.precision)}
        if SEED in own and not variant.option(SEED, 0):
            found += [parse_variant(f"{variant.label},{SEED}={n}") for n in range(1, seeds)]
    return found


def _candidates() -> Iterator[tuple[Variant, ...]]:
    """For each format of each backend the variants that may stand for it, the first first."""
    for name in plugins.names("backends"):
        spec = spec_of(name)
        if spec.served or spec.simulates:
            continue
        words = [one for one in spec.precisions if one not in _NO_FORMATS]
        for word in (*words, *spec.formats):
            precision, *options = word.split(",")
            yield tuple(_in_groups(spec, f"{precision}@{name}", options))


def _in_groups(spec: BackendSpec, head: str, options: Sequence[str]) -> Iterator[Variant]:
    first = parse_variant(",".join([head, *options]))
    yield first
    size = dict(first.options).get("group_size")
    if not isinstance(size, int) or any("group_size" in option for option in options):
        return
    known = next(one for one in spec.options if one.name == "group_size")
    for smaller in _SMALLER_GROUPS:
        if smaller < size and (not known.allowed or smaller in known.allowed):
            yield parse_variant(",".join([head, f"group_size={smaller}", *options]))


def _first_possible(
    checkpoint: Checkpoint, device: str, capability: Capability, choices: Sequence[Variant]
) -> Variant:
    """The first of `choices` that can be made; raises the last one's error where none can."""
    *others, last = choices
    for variant in others:
        with contextlib.suppress(EvalkitError):
            _check(checkpoint, device, capability, variant)
            return variant
    _check(checkpoint, device, capability, last)
    return last


def _check(checkpoint: Checkpoint, device: str, capability: Capability, variant: Variant) -> None:
    """Raise EvalkitError where a package, a layer, the device or a kernel is against it."""
    spec = spec_of(variant)
    check_installed(spec)
    check_device(spec, device)
    plugins.load("backends", variant.backend).check(checkpoint, variant)
    kernel_for(variant, decoder_shapes(checkpoint), capability)


def _settled_text(checkpoint: Checkpoint, variant: Variant) -> str:
    try:
        return settled(checkpoint, variant)[0].text
    except EvalkitError:
        return variant.text
