"""Speed of a served model: several requests at once, streamed, the clock read at each piece.

Time to first token holds waiting in the server's queue as well as reading the prompt; the time
between tokens is what one user sees while the others are served too. Prompts are random and all
different, so that no server finds their keys and values in a cache of prefixes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

from evalkit.analysis.sweep import next_batch
from evalkit.errors import VariantError
from evalkit.progress import Event, Listener
from evalkit.running.bench.round import POINT_SECONDS, PhaseResult, RoundJob, RoundResult
from evalkit.running.process import stop_if_asked
from evalkit.running.session import ServedSession
from evalkit.serving.client import Streamed
from evalkit.serving.http import ServerError
from evalkit.tasks.served_model import ServedModel

ENGINE = "endpoint"
MOST_CONCURRENT = 256


def measure_served_round(round_: RoundJob, session: ServedSession, send: Listener) -> RoundResult:
    """Every point of one round; the batch size of a point is its number of requests at once.

    Raises VariantError where the server cannot be reached; a point that fails says so itself.
    """
    job = round_.job
    if round_.soak or job.model.weights == "random":
        raise VariantError(
            f"{job.variant.label} runs in a server: --soak and --weights random are for models"
            " loaded here"
        )
    bench = _ServedBench(round_, session.server, send)
    phases = tuple(bench.run())
    return RoundResult(session.kernel, (*session.notes, *bench.notes), {}, {}, phases)


@dataclass(frozen=True)
class _Timed:
    """A streamed answer with the clock when it was asked for."""

    begun: float
    answer: Streamed

    @property
    def first(self) -> float:
        return self.begun + self.answer.first

    @property
    def end(self) -> float:
        return self.begun + self.answer.seconds


class _ServedBench:
    """A server and the points measured of it."""

    def __init__(self, round_: RoundJob, model: ServedModel, send: Listener) -> None:
        self.round, self.model, self.send = round_, model, send
        self.notes: tuple[str, ...] = ()
        special = set(model.tokenizer.all_special_ids)
        self._words = [i for i in range(len(model.tokenizer)) if i not in special]
        # Seeded anew in each round: a server keeps its cache of prefixes from round to round.
        self._random = random.Random(time.time_ns())

    def run(self) -> Iterator[PhaseResult]:
        """Concurrency at the prompt's length first, then contexts one request at a time."""
        measured: dict[int, float] = {}
        failed: int | None = None
        most = min(self.round.most, MOST_CONCURRENT)
        given = list(self.round.batches) if self.round.batches is not None else None
        while True:
            if given is not None:
                requests = given.pop(0) if given else None
            else:
                requests = next_batch(measured, most=most, failed=failed)
            if requests is None:
                break
            for result in self._point(requests, self.round.prompt):
                yield result
                if result.status != "ok":
                    failed = requests
                elif result.phase == "decode":
                    measured[requests] = median(result.samples)
        for context in self.round.contexts:
            yield from self._point(1, context)

    def _point(self, requests: int, context: int) -> list[PhaseResult]:
        stop_if_asked()
        label = self.round.job.variant.label
        self.send(Event(label, f"{requests} requests at once, context {context}"))
        try:
            return self._measure(requests, context)
        except ServerError as error:
            return [
                PhaseResult(phase, requests, context, "failed", str(error), ENGINE)
                for phase in ("prefill", "decode")
            ]

    def _measure(self, requests: int, context: int) -> list[PhaseResult]:
        self._together(requests, context)  # warm-up: kernels, and what the server takes
        begun, repeated = time.perf_counter(), []
        for number in range(self.round.repetitions):
            if number >= 2 and time.perf_counter() - begun > POINT_SECONDS:
                break
            stop_if_asked()
            repeated.append(self._together(requests, context))
        answers = [one.answer for together in repeated for one in together]
        warnings = self._warnings(answers)
        prefill = PhaseResult(
            "prefill", requests, context, engine=ENGINE, warnings=warnings,
            samples=tuple(_prefill_rate(together, context) for together in repeated),
            latencies=tuple(1000 * answer.first for answer in answers),
        )  # fmt: skip
        decode = PhaseResult(
            "decode", requests, context, engine=ENGINE, warnings=warnings,
            samples=tuple(_decode_rate(together) for together in repeated),
            latencies=tuple(1000 * gap for answer in answers for gap in _gaps(answer)),
        )  # fmt: skip
        return [prefill, decode]

    def _together(self, requests: int, context: int) -> list[_Timed]:
        """`requests` prompts sent at once; raises ServerError where one of them fails."""
        prompts = [self._prompt(context) for _ in range(requests)]

        def ask(prompt: list[int]) -> _Timed:
            begun = time.perf_counter()
            return _Timed(begun, self.model.client.stream(prompt, self.round.generate))

        with ThreadPoolExecutor(requests) as pool:
            return list(pool.map(ask, prompts))

    def _prompt(self, context: int) -> list[int]:
        tokens = self._random.choices(self._words, k=context)
        if self.model.client.takes_tokens:
            return tokens
        # What a text-only server reads is its own tokenisation: cut it to the length asked for.
        tokenizer = self.model.tokenizer
        text = self.model.client.text_of(tokens)
        found: list[int] = tokenizer.encode(text, add_special_tokens=False)[: context - 1]
        return found

    def _warnings(self, answers: list[Streamed]) -> tuple[str, ...]:
        warnings = []
        short = sum(answer.tokens < self.round.generate for answer in answers)
        if short:
            warnings.append(
                f"{short} of {len(answers)} answers ended before {self.round.generate} tokens: this"
                " server stops at the end of the text"
            )
        if any(len(answer.gaps) + 1 < answer.tokens for answer in answers):
            warnings.append("the server sends several tokens in a piece: latencies are means of it")
        return tuple(warnings)


def _prefill_rate(together: list[_Timed], context: int) -> float:
    """Prompt tokens of all requests over the time until the last had its first token."""
    tokens = sum(one.answer.prompt or context for one in together)
    return tokens / (max(one.first for one in together) - min(one.begun for one in together))


def _decode_rate(together: list[_Timed]) -> float:
    """Tokens of all requests behind their first over the time they took."""
    tokens = sum(one.answer.tokens - 1 for one in together)
    seconds = max(one.end for one in together) - min(one.first for one in together)
    if not tokens or seconds <= 0:
        raise ServerError(
            "the server generated one token at most: nothing to time; raise --generate"
        )
    return tokens / seconds


def _gaps(answer: Streamed) -> tuple[float, ...]:
    """Seconds between tokens; their mean where pieces of several tokens came."""
    if len(answer.gaps) + 1 == answer.tokens or answer.tokens < 2:
        return answer.gaps
    return ((answer.seconds - answer.first) / (answer.tokens - 1),)
