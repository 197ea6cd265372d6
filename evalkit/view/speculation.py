"""Speculative decoding as text and JSON: what was measured beside what was predicted.

The JSON object has the schema "evalkit.speculation/1": a row for each draft, with all fields of
the record.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from evalkit.records.bench import Speculation
from evalkit.view.export import json_text

SCHEMA = "evalkit.speculation/1"


@dataclass(frozen=True)
class Speculations:
    """One target with each of its drafts, at least one."""

    items: tuple[Speculation, ...]


def to_json(found: Speculations) -> str:
    """One object (see the module's docstring)."""
    return json_text({"schema": SCHEMA, "rows": [dataclasses.asdict(one) for one in found.items]})


def to_text(found: Speculations) -> str:
    """A block for each draft: measured and predicted in columns, then what was equal."""
    first = found.items[0]
    lines = [
        f"Speculative decoding of {first.target}: batch 1, {first.prompts} prompts of up to"
        f" {first.prompt} tokens, {first.tokens} tokens generated,"
        f" {first.draft_tokens} drafted before each pass",
        f"plain decode of {first.target}: {_number(first.plain_tokens_per_second, 1)} tokens/s",
    ]
    for one in found.items:
        lines += ["", *_block(one)]
    return "\n".join(lines)


def _block(one: Speculation) -> list[str]:
    interval = ""
    if one.speedup_low is not None and one.speedup_high is not None:
        interval = f" [{one.speedup_low:.2f}, {one.speedup_high:.2f}]"
    rows = [
        (f"draft {one.draft}", "measured", "predicted"),
        ("accepted, greedy", _percent(one.accepted), f"{_percent(one.agreement)} top-1 agreement"),
        ("accepted, sampling", _percent(one.sampled_accepted),
         f"{_percent(one.predicted_accepted)} 1 − TV"),
        ("tokens a pass, greedy", f"{one.tokens_per_pass:.2f}",
         _number(one.predicted_tokens_per_pass, 2)),
        ("speed-up, greedy", f"× {one.speedup:.2f}{interval}",
         f"× {_number(one.predicted_speedup, 2)}"),
    ]  # fmt: skip
    lines = [f"{name:<24}{measured:<22}{predicted}" for name, measured, predicted in rows]
    if one.draft_cost is not None:
        lines.append(f"a step of the draft takes {one.draft_cost:.2f} of a step of the target")
    lines.append(_lossless(one))
    if one.predicted_accepted is None and one.sampled_accepted is not None:
        lines.append(
            f"not predicted: run `evalkit compare {one.target} {one.draft}` on a text first"
        )
    return lines


def _lossless(one: Speculation) -> str:
    if one.lossless:
        return f"lossless: all {one.tokens} tokens equal those of plain greedy decoding"
    other = one.differing - one.ties
    verdict = f"NOT lossless: {other} of them by more than rounding" if other else "all at ties"
    return (
        f"{one.differing} of {one.prompts} prompts part from plain greedy decoding, {verdict}"
        f" ({one.ties} where rounding decides between two tokens)"
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
