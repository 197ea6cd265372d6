"""What fits on a card, as a sheet and JSON: pure functions of a Plan.

The JSON object has the schema "evalkit.plan/1": `model` (the name asked for), `gpu`, `context`
(tokens of a sequence), `batch` (sequences) and one object in `rows` a variant. Byte counts and
tokens/s are numbers, the latter of all sequences together; those of a variant that cannot be made
of the model are null.
"""

from __future__ import annotations

from typing import Any

from evalkit import numbers
from evalkit.analysis.cards import CARDS, Card
from evalkit.analysis.planner import SCHEMA, Plan, PlanRow, most_sequences
from evalkit.paths import called, called_words
from evalkit.view.cells import Grid, Line
from evalkit.view.export import json_text
from evalkit.view.sheet import Sheet

# A usual bound of the prompt tokens that a serving engine reads in one pass.
CHUNK = 2048
TITLES = (
    "weights", "KV cache", "activations", "total", "fits", "max batch", "max context",
    "decode at most", "decode expected", "prefill at most",
)  # fmt: skip
KEYS = (
    "variant", "weight_bytes", "bits_per_weight", "bits_per_quantized_weight",
    "kv_cache_bytes_per_token", "activation_bytes", "total_bytes",
    "fits", "headroom_bytes", "max_batch", "max_context", "decode_roofline_tokens_per_second",
    "decode_expected_tokens_per_second", "prefill_roofline_tokens_per_second",
)  # fmt: skip


def sheet(plan: Plan) -> Sheet:
    """How names were chosen, heading, one line a variant, and what the numbers mean."""
    return Sheet("Plan", heading(plan), plan_grid(plan), remarks(plan), preface=plan.notes)


def to_json(plan: Plan) -> str:
    """One object (see the module's docstring)."""
    rows = [_json_row(plan, row) for row in plan.rows]
    rows += [dict.fromkeys(KEYS) | {"variant": name} for name, _ in plan.refused]
    return json_text({
        "schema": SCHEMA,
        "model": plan.shape.name,
        "gpu": plan.card.name,
        "context": plan.context,
        "batch": plan.batch,
        "rows": rows,
    }, ascii_only=True)  # fmt: skip


def heading(plan: Plan) -> list[str]:
    """Model, card, context and batch in a few words each."""
    return [
        numbers.clean(called(plan.shape.name)),
        f"{numbers.count(plan.shape.parameters)} parameters",
        card_line(plan.card),
        f"context {plan.context}",
        f"batch {plan.batch}",
    ]


def card_line(card: Card) -> str:
    """A card with what the plan uses of it."""
    return (
        f"{card.title}: {numbers.byte_size(card.memory)}, {card.bandwidth / 1e9:.0f} GB/s, "
        f"{card.flops / 1e12:.0f} TFLOP/s"
    )


def card_lines() -> list[str]:
    """One line a known card, with its source: what `evalkit list gpus` prints."""
    return [
        f"{card.name}: {card_line(card)} FP16, {card.int8_operations / 1e12:.0f} TOP/s INT8, "
        f"{card.watts:.0f} W ({card.source})"
        for card in CARDS.values()
    ]


def plan_grid(plan: Plan) -> Grid:
    """One line a variant, those refused with their reason."""
    lines = [_line(row) for row in plan.rows]
    lines += [
        Line(numbers.clean(name), message=numbers.clean(why), finding="failed")
        for name, why in plan.refused
    ]
    return Grid(TITLES, tuple(lines))


def remarks(plan: Plan) -> list[str]:
    """One line each: weights by category, what is in the other columns, where figures come from."""
    if not plan.rows:
        return []
    found = [f"weights of {_name(row)}: {_categories(row)}{_bits(plan, row)}" for row in plan.rows]
    tokens = ", ".join(
        dict.fromkeys(f"{row.kv_cache_bytes_per_token / 1024:g} KiB" for row in plan.rows)
    )
    found.append(f"KV cache: {tokens} a token and sequence, {plan.context} tokens × {plan.batch}")
    if any(row.scheme.cache for row in plan.rows):
        found.append(
            "a quantized KV cache is planned as an engine such as llama.cpp or vLLM holds it:"
            " evalkit simulates it, for quality"
        )
    found.append(_activations(plan))
    if not plan.prefill_chunk and plan.context > CHUNK:
        most = [f"{row.variant} {most_sequences(plan, row.scheme, CHUNK)}" for row in plan.rows]
        found.append(
            f"max batch of an engine that reads prompts in passes of {CHUNK} tokens "
            f"(--prefill-chunk {CHUNK}): {', '.join(most)}"
        )
    found.append(
        "decode at most: bytes of weights read a step over bandwidth, without the KV cache; "
        "decode expected: with the KV cache read behind a full context, times "
        + ", ".join(
            f"{row.scheme.fraction:.2f} for {row.variant} ({row.scheme.source})"
            for row in plan.rows
        )
    )
    found.append("tokens/s are of all sequences together; a card's other programs are not counted")
    return found


def _line(row: PlanRow) -> Line:
    used = row.memory
    fits = f"{'yes' if row.fits else 'no'}, {_headroom(row.headroom_bytes)}"
    cells = (
        numbers.byte_size(used.weights.total),
        numbers.byte_size(used.kv_cache),
        numbers.byte_size(used.activations),
        numbers.byte_size(used.total),
        fits,
        str(row.max_batch),
        str(row.max_context),
        numbers.rate(row.decode_roofline),
        numbers.rate(row.decode_expected),
        numbers.rate(row.prefill_roofline),
    )
    return Line(_name(row), cells)


def _headroom(spare: float) -> str:
    size = numbers.byte_size(abs(spare))
    return f"{size} left" if spare >= 0 else f"{size} too much"


def _name(row: PlanRow) -> str:
    title = row.scheme.title
    name = numbers.clean(called_words(row.variant))
    return f"{name} {title}" if row.scheme.quantized else name


def _categories(row: PlanRow) -> str:
    weights = row.memory.weights
    width = f"in {8 * row.scheme.rest_bytes} bit"
    parts = [
        f"{numbers.byte_size(weights.packed)} packed" if weights.packed else "",
        f"{numbers.byte_size(weights.scales)} {_scales(row)}" if weights.scales else "",
        f"{numbers.byte_size(weights.zeros)} zero points" if weights.zeros else "",
        f"{numbers.byte_size(weights.rest)} {width}",
    ]
    return " + ".join(part for part in parts if part)


def _scales(row: PlanRow) -> str:
    """What stands beside packed weights: of some methods also an index of groups, or codebooks."""
    return "scales and indexes" if row.scheme.input_bytes or row.scheme.layer_bytes else "scales"


def _bits(plan: Plan, row: PlanRow) -> str:
    packed = row.bits_per_quantized_weight(plan.shape)
    if packed is None:
        return ""
    whole = row.bits_per_weight(plan.shape)
    return f"; {packed:.2f} bits a quantized weight, {whole:.2f} over the whole model"


def _activations(plan: Plan) -> str:
    chunk = plan.prefill_chunk
    how = f"passes of at most {chunk} tokens" if chunk else "one pass over all prompts"
    parts = [
        f"{called_words(row.variant)} {numbers.byte_size(row.memory.prefill)} prefill, "
        f"{numbers.byte_size(row.memory.decode)} decode"
        for row in plan.rows
    ]
    runtime = numbers.byte_size(plan.rows[0].memory.runtime)
    return f"activations: {how} ({' · '.join(parts)}); {runtime} more for the runtime"


def _json_row(plan: Plan, row: PlanRow) -> dict[str, Any]:
    values = (
        row.variant,
        round(row.memory.weights.total),
        row.bits_per_weight(plan.shape),
        row.bits_per_quantized_weight(plan.shape),
        round(row.kv_cache_bytes_per_token),
        round(row.memory.activations),
        round(row.memory.total),
        row.fits,
        round(row.headroom_bytes),
        row.max_batch,
        row.max_context,
        row.decode_roofline,
        row.decode_expected,
        row.prefill_roofline,
    )
    return dict(zip(KEYS, values, strict=True))
