"""Prefill and decode speed at batch 1.

Prefill reads the prompt in one pass and is bound by arithmetic; decode makes one token a step and
is bound by reading every weight once. They respond differently to quantization, so they are
measured apart.
"""

from __future__ import annotations

from evalkit.analysis.gate import SPEEDS, Limit
from evalkit.metrics._spec import Probe, ProbeMetric
from evalkit.records import Column, Measurement

PREFILL = ProbeMetric(
    name="prefill_tokens_per_second",
    unit="tokens/s",
    direction="higher",
    version=1,
    definition="Prompt tokens over the time of one forward pass that fills the cache, batch 1.",
)
DECODE = ProbeMetric(
    name="decode_tokens_per_second",
    unit="tokens/s",
    direction="higher",
    version=1,
    definition="Generated tokens over their time after the prompt: greedy, one a step, batch 1,"
    " dynamic cache, no stop at the end-of-text token.",
)
SPECS = (PREFILL, DECODE)
COLUMNS = (
    Column(PREFILL.name, "prefill", "speed", measured_on="model", place=30),
    Column(DECODE.name, "decode", "speed", measured_on="model", place=40),
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
_WARM_UP = 8


def measure(probe: Probe) -> list[Measurement]:
    """Warm up, then time `protocol.repetitions` generations; raw samples are kept."""
    from evalkit.inference.timing import generation_lengths, time_generation

    protocol = probe.protocol
    prompt, generate = generation_lengths(probe.model, protocol.prompt, protocol.generate)
    time_generation(probe.model, prompt, min(generate, _WARM_UP))
    samples = [time_generation(probe.model, prompt, generate) for _ in range(protocol.repetitions)]
    convention = f"batch 1, prompt {prompt}, generated {generate}, eager"
    return [
        PREFILL.measured(tuple(prompt / s.prefill for s in samples), convention),
        DECODE.measured(tuple(generate / s.decode for s in samples), convention),
    ]
