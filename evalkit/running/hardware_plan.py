"""From words to a plan of memory and speed on a card: nothing is downloaded but a config.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from evalkit import plugins
from evalkit.analysis.architecture import ModelShape
from evalkit.analysis.cards import Card, card_of_driver, find_card
from evalkit.analysis.footprint import Scheme
from evalkit.analysis.planner import Plan, check_numbers, plan
from evalkit.backends import cache_format, check, settled
from evalkit.errors import VariantError
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.resolve import resolve_config
from evalkit.options import PlanOptions
from evalkit.records import Variant
from evalkit.running.defaults import choose_variants
from evalkit.running.environment import gpu_names

MODEL, GPU = "phi-3-small", "rtx-4090"
LONGEST_DEFAULT = 8192
_EXPERTS = "a plan cannot count packed experts: plan fp16 or bf16, and measure this one"


def plan_hardware(asked: Sequence[str], options: PlanOptions) -> Plan:
    """Plan every variant asked for; raises UsageError or ModelError in one line.

    A variant that cannot be made of the model is refused with its reason; the others are planned.
    """
    variants = choose_variants(asked)
    check_numbers(options["context"], options["batch"], options["prefill_chunk"])
    card, why = choose_card(options["gpu"])
    name = str(options["model"] or MODEL)
    checkpoint = resolve_config(name, offline=options["offline"])
    _import_torch()
    schemes, refused, chosen = schemes_of(variants, checkpoint)
    shape = shape_of(name, checkpoint, [scheme for _, scheme in schemes])
    if shape.experts:
        refused += [(label, _EXPERTS) for label, scheme in schemes if scheme.quantized]
        schemes = [(label, scheme) for label, scheme in schemes if not scheme.quantized]
    context = options["context"]
    if context is None:
        context = min(shape.max_context or LONGEST_DEFAULT, LONGEST_DEFAULT)
    return plan(
        shape,
        schemes,
        card,
        context,
        options["batch"],
        prefill_chunk=options["prefill_chunk"],
        refused=refused,
        notes=tuple(filter(None, (why, *chosen, _estimate(shape)))),
    )


def _estimate(shape: ModelShape) -> str:
    return f"activations are estimated: {shape.estimated}" if shape.estimated else ""


def choose_card(name: str | None) -> tuple[Card, str]:
    """The card called `name`, else the machine's own, else an RTX 4090; and why this one."""
    if name is not None:
        return find_card(name), ""
    own = gpu_names()
    if not own:
        return find_card(GPU), f"GPU: {GPU}, as this machine has none; choose one with --gpu"
    card = card_of_driver(own[0])
    if card is not None:
        return card, f"GPU: {card.name}, this machine's own"
    return find_card(GPU), (
        f"GPU: {GPU}, as this machine's {own[0]} is not in the table; choose one with --gpu"
    )


def _import_torch() -> None:
    """Import torch and transformers without remarks on libraries that are merely installed."""
    import evalkit.running.preload  # noqa: F401


def schemes_of(
    variants: Sequence[Variant], checkpoint: Checkpoint
) -> tuple[list[tuple[str, Scheme]], list[tuple[str, str]], list[str]]:
    """(label, scheme) of the variants that can be planned, (label, reason) of the others.

    The lines that come third say what a bare word stands for in this model.
    """
    schemes, refused, notes = [], [], []
    for asked in variants:
        try:
            variant, note = settled(checkpoint, asked)
            notes += [note] if note else []
            backend = plugins.load("backends", variant.backend)
            if not hasattr(backend, "scheme"):
                raise VariantError(f"{variant.text} cannot be planned: its backend has no scheme")
            check(checkpoint, variant)
            scheme = dataclasses.replace(backend.scheme(variant), cache=cache_format(variant))
            schemes.append((variant.label, scheme))
        except VariantError as error:
            refused.append((asked.label, str(error)))
    return schemes, refused, notes


def shape_of(name: str, checkpoint: Checkpoint, schemes: Sequence[Scheme]) -> ModelShape:
    """The shape of the model for all the widths of elements that `schemes` need."""
    from evalkit.models.shape import model_shape

    elements = {scheme.rest_bytes for scheme in schemes}
    return model_shape(name, checkpoint.config, elements)
