"""The nouns of evalkit: plain frozen records, standard library only, importable without torch.

Everything that is stored or shown is one of these. `to_json` and `from_json` turn any of them
into plain dictionaries and back; the store adds the schema version.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

from evalkit.shown import Shown, door

Direction = Literal["lower", "higher", "none"]
Status = Literal["ok", "failed", "out_of_memory", "interrupted", "running"]
OptionValue = str | int | float | bool

T = TypeVar("T")


@dataclass(frozen=True)
class Variant:
    """One way to hold the model's weights: a precision made by a backend with options.

    `asked` is what the user typed; `options` hold every option of the backend that differs from
    its default or names the method (group_size), sorted by name. A checkpoint that is already
    quantized has precision "checkpoint" and its directory or hub id in `checkpoint`.
    """

    precision: str
    backend: str
    options: tuple[tuple[str, OptionValue], ...] = ()
    checkpoint: str | None = None
    asked: str = ""

    @property
    def text(self) -> str:
        """The canonical text form, `PRECISION@BACKEND[,key=value…]`; parses back to itself."""
        if self.checkpoint is not None:
            return self.checkpoint
        words = [f"{self.precision}@{self.backend}"]
        words += [f"{key}={_option_text(value)}" for key, value in self.options]
        return ",".join(words)

    @property
    def label(self) -> str:
        """What tables and charts call it: the words asked for, else the canonical form."""
        return self.asked or self.text

    def option(self, name: str, default: OptionValue) -> OptionValue:
        """The value of option `name`, or `default` where it is not set."""
        return dict(self.options).get(name, default)


@dataclass(frozen=True)
class TextSlice:
    """One evaluation text of a suite: its name, content hash and number of documents."""

    name: str
    sha256: str
    documents: int


@dataclass(frozen=True)
class TaskSlice:
    """One lm-eval task of a suite: number of few-shot examples, limit of items, chat or not.

    `data` is the hash of its local files, empty where the data comes from the hub.
    """

    name: str
    shots: int | None = None
    limit: int | None = None
    chat: bool = False
    system: str = ""
    data: str = ""


@dataclass(frozen=True)
class Suite:
    """On what a variant is measured. Its id is a hash of content, not of names."""

    name: str
    texts: tuple[TextSlice, ...] = ()
    convention: str = "document"
    context: int = 512
    bos: str = "convention"
    tasks: tuple[TaskSlice, ...] = ()
    limit: int | None = None
    seed: int = 0
    protocol: str = ""

    @property
    def id(self) -> str:
        """Hash of everything that changes a number; slice names and the suite's name do not."""
        content = to_json(self)
        content.pop("name")
        content["texts"] = [(text.sha256, text.documents) for text in self.texts]
        return content_hash(content)

    def parts(self) -> tuple[Suite, ...]:
        """The suite cut into pieces that are measured and stored on their own.

        One for all texts, one for each task: adding a task or a text leaves the rest measured.
        """
        texts = [dataclasses.replace(self, tasks=(), limit=None)] if self.texts else []
        bare = dataclasses.replace(self, texts=(), convention="", context=0, bos="", limit=None)
        return (*texts, *(dataclasses.replace(bare, tasks=(task,)) for task in self.tasks))


@dataclass(frozen=True)
class Measurement:
    """One metric of one run. Raw values are kept; summaries are derived from them.

    `values` are inline raw samples (speed repetitions, byte counts) with optional `weights` and
    `units` (ids of window, document or item). Larger raw data lies in the Parquet file `table`
    (relative to the store) and `values` is empty. `convention` says how it was measured in words.
    Speed and memory hold on the `machine` they were measured on; a divergence holds against the
    run `baseline`.
    """

    metric: str
    version: int
    unit: str
    direction: Direction
    values: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    units: tuple[str, ...] = ()
    table: str | None = None
    convention: str = ""
    machine: str | None = None
    baseline: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Environment:
    """Where a run was made: machine, device and library versions."""

    machine: str
    device: str
    threads: int
    python: str
    platform: str
    packages: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """What is evaluated. `identity` is the content of the checkpoint's files, not its path."""

    name: str
    identity: str
    parameters: int = 0
    architecture: str = ""
    weights: str = "checkpoint"


@dataclass(frozen=True)
class Run(Shown):
    """One variant of one model on one suite, with its measurements, environment and status."""

    id: str
    model: Model
    variant: Variant
    suite: Suite
    status: Status
    message: str = ""
    kernel: str = ""
    environment: Environment | None = None
    measurements: tuple[Measurement, ...] = ()
    notes: tuple[str, ...] = ()
    created: str = ""

    def measurement(
        self, metric: str, machine: str | None = None, baseline: str = ""
    ) -> Measurement | None:
        """The measurement named `metric`, or None: not measured is never zero.

        `machine` and `baseline` choose among several where speed was measured on several machines
        or a divergence against several baselines; the newest is taken where they are not given.
        """
        found = [
            m
            for m in self.measurements
            if m.metric == metric
            and (machine is None or m.machine in (None, machine))
            and (not baseline or m.baseline in ("", baseline))
        ]
        return found[-1] if found else None


@dataclass(frozen=True)
class Value:
    """A summarised metric of one row: value with interval, and its difference to the baseline.

    `low` and `high` bound the value; `delta`, `delta_low`, `delta_high` bound variant − baseline
    (paired); None means not measured or not available, never zero.
    """

    value: float | None
    unit: str
    n: int = 0
    low: float | None = None
    high: float | None = None
    delta: float | None = None
    delta_low: float | None = None
    delta_high: float | None = None
    verdict: str = "not measured"
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One variant of a comparison.

    `verdict` is the row's overall finding at the margin, in words fit for a table ("no loss",
    "inconclusive: 900 more items"): over the tasks where there are any, else of perplexity.
    """

    variant: Variant
    status: Status
    message: str = ""
    kernel: str = ""
    verdict: str = ""
    metrics: dict[str, Value] = field(default_factory=dict)
    slices: dict[str, dict[str, Value]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Flip:
    """A task item that is right under one variant and wrong under the other.

    Margins are in nats: by how much the right choice beats the best wrong one (None for generated
    answers). `is_coin_flip` marks an item whose margins are within the noise of rounding, which is
    no damage.
    """

    task: str
    item: int
    variant: str
    direction: Literal["right→wrong", "wrong→right"]
    prompt: str
    choices: tuple[str, ...]
    target: str
    baseline_loglikelihoods: tuple[float, ...] = ()
    variant_loglikelihoods: tuple[float, ...] = ()
    baseline_margin: float | None = None
    variant_margin: float | None = None
    baseline_answer: str = ""
    variant_answer: str = ""
    is_coin_flip: bool = False


@dataclass(frozen=True)
class Comparison(Shown):
    """A baseline run and its variants: values, paired differences, verdicts, noise floor."""

    model: Model
    suite: Suite
    baseline: str
    margin: str
    rows: tuple[Row, ...]
    noise_floor: dict[str, float] = field(default_factory=dict)
    environment: Environment | None = None
    sentence: str = ""
    notes: tuple[str, ...] = ()
    store: str = ""
    command: str = ""

    def flips(self, task: str | None = None) -> Any:
        """The items that changed between right and wrong, to browse in a notebook."""
        return door().flip_browser(self, task)

    def worst_tokens(self, variant: str | None = None, count: int = 20) -> Any:
        """The tokens that `variant` (default the last) makes least likely against the baseline."""
        return door().worst_tokens(self, variant, count)


def to_json(record: Any) -> Any:
    """A record as plain dictionaries, lists and scalars."""
    return json.loads(json.dumps(dataclasses.asdict(record)))


def from_json(kind: type[T], content: Any) -> T:
    """Build the record `kind` from what `to_json` made; unknown keys are ignored.

    Raises KeyError, TypeError or ValueError on content of another shape.
    """
    return cast(T, _build(kind, content))


def content_hash(content: Any, length: int = 16) -> str:
    """First `length` hex digits of the SHA-256 of `content` as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _option_text(value: OptionValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The types of a record's fields; evaluating them takes longer than building it."""
    return typing.get_type_hints(kind)


def _build(kind: Any, content: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return content
    if content is None:
        if origin in (typing.Union, types.UnionType) and type(None) in arguments:
            return None
        raise TypeError(f"a value is missing where {kind} is expected")
    if dataclasses.is_dataclass(kind):
        hints = _hints(cast(Any, kind))
        known = {f.name: f for f in dataclasses.fields(kind)}
        return cast(Any, kind)(**{k: _build(hints[k], v) for k, v in content.items() if k in known})
    if origin in (typing.Union, types.UnionType):
        options = [a for a in arguments if a is not type(None)]
        return _build(options[0], content) if len(options) == 1 else content
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_build(arguments[0], item) for item in content)
        return tuple(_build(a, item) for a, item in zip(arguments, content, strict=True))
    if origin is dict and len(arguments) == 2:
        return {key: _build(arguments[1], value) for key, value in content.items()}
    if origin is Literal:
        if content not in arguments:
            raise ValueError(f"{content!r} is not one of {arguments}")
        return content
    if kind is float and isinstance(content, int):
        return float(content)
    if kind in (int, float, str, bool) and not isinstance(content, kind):
        raise TypeError(f"{content!r} is not {kind.__name__}")
    if kind is int and abs(content) >= 2**63:
        raise ValueError("a number has more than 64 bits")
    return content
