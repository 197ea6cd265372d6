"""Asking the model: every answer is kept as it comes, so an interrupted task goes on per item."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from numpy.typing import NDArray

from evalkit.errors import StoreError
from evalkit.store.files import read_parquet, write_parquet
from evalkit.store.parts import Parts
from evalkit.store.task_requests import Kind, TaskRequests

# How long answers wait to be written where the model does not say that a batch has ended.
FLUSH_SECONDS = 1.0

# What lm-eval gets as the answer of one request: (log-likelihood, greedy), log-likelihood, text.
Answer = tuple[float, bool] | float | str
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Answers:
    """The answers to a TaskRequests, by position in its `flat()` order.

    loglikelihood float64[n] in nats (NaN for generated text), greedy bool[n], text[n].
    """

    requests: str
    loglikelihood: NDArray[np.float64]
    greedy: NDArray[np.bool_]
    text: tuple[str | None, ...]

    def answer(self, kind: Kind, position: int) -> Answer:
        """The answer at `position` in the form lm-eval's tasks take it."""
        if kind == "generate_until":
            return self.text[position] or ""
        value = float(self.loglikelihood[position])
        return value if kind == "loglikelihood_rolling" else (value, bool(self.greedy[position]))


def answer_requests(
    requests: TaskRequests,
    lm: LM,
    folder: Path,
    *,
    advance: Advance | None = None,
) -> Answers:
    """All answers of `lm` to `requests`; those that already lie in `folder` are not asked again.

    `lm` is any lm-eval model. Answers it reports through its cache hook are written after each
    batch (LocalLanguageModel calls the hook's `flush`) or about a second, all others when it
    returns. `advance(done, total)` is called each time; an exception raised by it or by `lm` loses
    no answer. A model with a method `remember` (LanguageModel) is given earlier answers with all
    requests, so that its batches are those of a run without interruption. The finished table is
    `folder`/TASK-ID.parquet.
    """
    table = _table(requests, folder)
    if not table.exists():
        recorder = _Recorder(requests, folder, advance)
        try:
            lm.set_cache_hook(recorder)
            recorder.ask(lm)
        finally:
            lm.set_cache_hook(_Deaf())
            recorder.write()
        recorder.merge(table)
    return load_answers(requests, folder)


def load_answers(requests: TaskRequests, folder: Path) -> Answers:
    """The finished answers; raises StoreError where they are missing or incomplete."""
    columns = read_parquet(_table(requests, folder))
    order = np.argsort(columns["position"], kind="stable")
    if not np.array_equal(columns["position"][order], np.arange(requests.count)):
        raise StoreError(f"{_table(requests, folder)} is incomplete; run again with --fresh")
    return _from_columns({name: column[order] for name, column in columns.items()}, requests.id)


def _from_columns(columns: Mapping[str, NDArray[Any]], requests: str) -> Answers:
    return Answers(
        requests=requests,
        loglikelihood=columns["loglikelihood"].astype(np.float64),
        greedy=columns["greedy"].astype(np.bool_),
        text=tuple(columns["text"]),
    )


def _table(requests: TaskRequests, folder: Path) -> Path:
    return folder / f"{_file_name(requests.task)}-{requests.id}.parquet"


def _file_name(task: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in task)


def joined(requests: TaskRequests, parts: Sequence[Answers]) -> Answers:
    """Answers to consecutive pieces of `requests` as those to the whole."""
    return Answers(
        requests=requests.id,
        loglikelihood=np.concatenate([part.loglikelihood for part in parts]),
        greedy=np.concatenate([part.greedy for part in parts]),
        text=tuple(text for part in parts for text in part.text),
    )


class _Deaf:
    """A cache hook that keeps nothing."""

    def add_partial(self, kind: str, arguments: Sequence[Any], answer: Any) -> None:
        """Ignore the answer."""


class _Recorder:
    """lm-eval's cache hook, matched to positions: equal requests take answers in turn."""

    def __init__(self, requests: TaskRequests, folder: Path, advance: Advance | None) -> None:
        name = _table(requests, folder).stem
        self._parts = Parts(folder / f"parts-{name}", "position")
        self._flat = list(requests.flat())
        self._task, self._repeats = requests.task, requests.repeats
        self._advance = advance
        self._done = set(self._parts.done())
        self._new: dict[int, Answer] = {}
        self._waiting: dict[Any, deque[int]] = defaultdict(deque)
        self._flushed = time.monotonic()

    def ask(self, lm: LM) -> None:
        """Ask what is not answered yet, one kind of request after the other."""
        by_kind: dict[Kind, list[int]] = defaultdict(list)
        for position, (_, _, request) in enumerate(self._flat):
            by_kind[request.kind].append(position)
        earlier = self._earlier()
        self._tell()
        for kind, positions in by_kind.items():
            known = {i: earlier[p] for i, p in enumerate(positions) if p in earlier}
            if len(known) < len(positions):
                self._ask_kind(lm, kind, positions, known)

    def _ask_kind(self, lm: LM, kind: Kind, positions: list[int], known: dict[int, Answer]) -> None:
        """Ask for one kind; `known` are earlier answers by place in `positions`."""
        remember = getattr(lm, "remember", None)
        if remember is not None:
            remember(kind, known)
            asked = positions
        else:
            asked = [position for i, position in enumerate(positions) if i not in known]
        self._waiting.clear()
        for position in asked:
            if position not in self._done:
                self._waiting[_key(kind, self._flat[position][2].arguments)].append(position)
        answers = getattr(lm, kind)([self._instance(position) for position in asked])
        for position, answer in zip(asked, answers, strict=True):
            self._keep(position, answer)
        if self._new:
            self.flush()

    def _earlier(self) -> dict[int, Answer]:
        """Answers of an interrupted pass, by position."""
        found = {}
        for file in self._parts.files():
            columns = read_parquet(file)
            answers = _from_columns(columns, "")
            for row, position in enumerate(columns["position"]):
                found[int(position)] = answers.answer(self._flat[position][2].kind, row)
        return found

    def add_partial(self, kind: str, arguments: Sequence[Any], answer: Any) -> None:
        """Take one answer while the model still works on others."""
        waiting = self._waiting.get(_key(kind, arguments))
        while waiting:
            position = waiting.popleft()
            if position not in self._done:
                self._keep(position, answer)
                if time.monotonic() - self._flushed > FLUSH_SECONDS:
                    self.flush()
                return

    def flush(self) -> None:
        """Write what came since the last time, and tell how far it is."""
        self.write()
        self._tell()

    def write(self) -> None:
        """Write what came since the last time; on return it survives a power loss."""
        if self._new:
            self._parts.append(_columns(self._new))
            self._new = {}
        self._flushed = time.monotonic()

    def merge(self, table: Path) -> None:
        """Write all answers as one table."""
        if self._flat:
            self._parts.merge(table)
        else:
            write_parquet(table, _columns({}))

    def _keep(self, position: int, answer: Answer) -> None:
        if position not in self._done:
            self._done.add(position)
            self._new[position] = answer

    def _tell(self) -> None:
        if self._advance is not None:
            self._advance(len(self._done), len(self._flat))

    def _instance(self, position: int) -> Instance:
        item, index, request = self._flat[position]
        return Instance(
            request_type=request.kind,
            doc={},
            arguments=request.arguments,
            idx=index,
            metadata=(self._task, item.doc_id, self._repeats),
        )


def _key(kind: str, arguments: Sequence[Any]) -> Any:
    """What tells requests apart; models may pass arguments as lists or tuples."""
    parts = []
    for part in arguments:
        parts.append(_frozen(part) if isinstance(part, Mapping) else part)
    return (kind, *parts)


def _frozen(settings: Mapping[str, Any]) -> str:
    return repr(sorted(settings.items(), key=lambda pair: pair[0]))


def _columns(answers: Mapping[int, Answer]) -> dict[str, Any]:
    values, greedy, text = [], [], []
    for answer in answers.values():
        value, is_greedy = answer if isinstance(answer, (tuple, list)) else (answer, False)
        generated = isinstance(value, str)
        values.append(np.nan if generated else float(value))
        greedy.append(bool(is_greedy))
        text.append(value if generated else None)
    return {
        "position": pa.array(answers, pa.int32()),
        "loglikelihood": pa.array(values, pa.float64()),
        "greedy": pa.array(greedy, pa.bool_()),
        "text": pa.array(text, pa.string()),
    }
