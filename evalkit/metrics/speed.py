"""Prefill and decode speed at batch 1.

Prefill reads the prompt in one pass and is bound by arithmetic; decode makes one token a step and
is bound by reading every weight once. They respond differently to quantization, so they are
measured apart.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from evalkit.analysis.gate import SPEEDS, Limit
from evalkit.analysis.samples import median_interval
from evalkit.errors import VariantError
from evalkit.metrics._spec import Probe, ProbeMetric
from evalkit.records import Column, Measurement

if TYPE_CHECKING:
    from evalkit.inference.timing import GenerationTime

PREFILL = ProbeMetric(
    name="prefill_tokens_per_second",
    unit="tokens/s",
    direction="higher",
    version=2,
    definition="Prompt tokens over the time of one forward pass that fills the cache, batch 1.",
)
DECODE = ProbeMetric(
    name="decode_tokens_per_second",
    unit="tokens/s",
    direction="higher",
    version=2,
    definition="Generated tokens over their time after the prompt: greedy, one a step, batch 1,"
    " dynamic cache, no stop at the end-of-text token.",
)
SPECS = (PREFILL, DECODE)
COLUMNS = (
    Column(PREFILL.name, "prefill", "speed", measured_on="model", place=30, importance=60),
    Column(DECODE.name, "decode", "speed", measured_on="model", place=40, importance=50),
)
LIMITS = (
    Limit(
        "min_decode_speed", DECODE.name, "40", "Tokens a second of decode.",
        units=SPEEDS, at_least=True,
    ),
    Limit(
        "min_prefill_speed", PREFILL.name, "2000", "Tokens a second of prefill.",
        units=SPEEDS, at_least=True,
    ),
)  # fmt: skip
# Repetitions: no fewer where there is time, and no more, which would follow the machine's drift.
_FEWEST, _MOST = 5, 20
# Half the interval of the median, as a share of it, with which speed is known well enough.
_PRECISE = 0.03
# A generation may take this part of the seconds allowed, else prompt and generation are halved.
_PART = 1 / 3
_FIRST_PROMPT, _FIRST_STEPS, _SHORTEST = 64, 4, 8


def measure(probe: Probe) -> list[Measurement]:
    """Warm up, then time generations until both medians are known, or the seconds are over.

    Raw samples are kept. Where a first short generation shows that the prompt would take too long,
    a shorter one is read, which the convention and a note of the row say.
    """
    from evalkit.inference.timing import generation_lengths

    timed, engine = _timing(probe)
    protocol, begun = probe.protocol, time.perf_counter()
    wanted = protocol.speed or (protocol.prompt, protocol.generate)
    prompt, generate = generation_lengths(probe.model, *wanted)
    few = min(prompt, _FIRST_PROMPT), min(generate, _FIRST_STEPS)
    timed(*few)
    first = timed(*few)
    asked = prompt, generate
    prompt, generate = affordable(
        first.prefill / few[0], first.decode / few[1], prompt, generate, _PART * protocol.seconds
    )
    samples: list[GenerationTime] = []
    while not _is_enough(samples, time.perf_counter() - begun, protocol.seconds):
        samples.append(timed(prompt, generate))
        gone = min(time.perf_counter() - begun, protocol.seconds)
        probe.advance(gone, protocol.seconds, "s")
    convention = f"batch 1, prompt {prompt}, generated {generate}, {engine}"
    note = _shortened(asked, (prompt, generate), protocol.seconds)
    if probe.unpacked is not None:
        said = (f"speed: {engine} runs the file itself", note.get("note", ""))
        note["note"] = "; ".join(str(line) for line in said if line)
    return [
        PREFILL.measured(tuple(prompt / s.prefill for s in samples), convention, **note),
        DECODE.measured(tuple(generate / s.decode for s in samples), convention, **note),
    ]


def _timing(probe: Probe) -> tuple[Callable[[int, int], GenerationTime], str]:
    """What times a generation of the variant, and the engine that runs it.

    Raises VariantError where none that runs it is here.
    """
    from evalkit.inference.timing import time_generation

    if probe.unpacked is None:
        return functools.partial(time_generation, probe.model), "eager"
    if probe.unpacked.timed is None:
        raise VariantError(f"{probe.unpacked.why}; {probe.unpacked.engine}")
    return probe.unpacked.timed, probe.unpacked.engine


def affordable(
    prefill: float, decode: float, prompt: int, generate: int, seconds: float
) -> tuple[int, int]:
    """`prompt` and `generate`, halved until a generation takes at most `seconds`.

    `prefill` and `decode` are the seconds of a token of each; the part that takes longer is halved.
    """
    while prompt * prefill + generate * decode > seconds and max(prompt, generate) > _SHORTEST:
        if (prompt * prefill >= generate * decode and prompt > _SHORTEST) or generate <= _SHORTEST:
            prompt //= 2
        else:
            generate //= 2
    return prompt, generate


def _is_enough(samples: Sequence[GenerationTime], gone: float, allowed: float) -> bool:
    """Whether both medians are known well enough, or another repetition would take too long."""
    if not samples:
        return False
    last = samples[-1].prefill + samples[-1].decode
    if gone + last > allowed or len(samples) >= _MOST:
        return True
    times = tuple(s.prefill for s in samples), tuple(s.decode for s in samples)
    return len(samples) >= _FEWEST and all(map(_is_precise, times))


def _is_precise(times: tuple[float, ...]) -> bool:
    found = median_interval(times)
    return (found.high - found.low) / 2 <= _PRECISE * found.estimate


def _shortened(
    asked: tuple[int, int], used: tuple[int, int], seconds: float
) -> dict[str, str | list[int]]:
    if asked == used:
        return {}
    line = (
        f"speed: prompt {used[0]} and {used[1]} generated tokens, not {asked[0]} and {asked[1]},"
        f" which would take too long for --speed-seconds {seconds:g}"
    )
    return {"note": line, "lengths": list(used)}
