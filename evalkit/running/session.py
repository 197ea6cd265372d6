"""A session: one variant that is ready to be measured, loaded here or served elsewhere.

`open_variant(job, send)` opens it for everything that measures: compare, bench, doctor, speculate,
lm-eval's own command and Ray's workers. Callers ask for a capability, never for a class:

- `distributions`: logits of every token, so divergences can be measured
- `memory`: size and peak are known here
- `probes`: the model itself can be run, timed and looked into
"""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evalkit import plugins
from evalkit.backends import for_scoring, keeps, spec_of, with_quantized_cache
from evalkit.errors import VariantError
from evalkit.inference.engines import Prepared, prepare_engine
from evalkit.metrics import Probe
from evalkit.metrics.memory import PeakMeter, level_before_loading
from evalkit.models.loading import Loaded, load_tokenizer
from evalkit.models.text_stack import tower_note
from evalkit.progress import Event, Listener
from evalkit.running.baseline_decoding import with_baseline_decoding
from evalkit.running.job import Job
from evalkit.running.keys import depends_on_batches
from evalkit.running.page_cache import State, page_cache_state, weight_files_of
from evalkit.running.served import open_server
from evalkit.scoring.device_memory import begin_context, wait_for
from evalkit.scoring.engine import ScoredBatch, score_windows
from evalkit.scoring.reference import Reference, ReferenceWriter
from evalkit.store.store import Store
from evalkit.tasks.language_model import LanguageModel
from evalkit.tasks.local_model import LocalLanguageModel
from evalkit.tasks.served_model import ServedModel
from evalkit.texts.windows import Windows

Capability = Literal["distributions", "memory", "probes"]


class Session(ABC):
    """One variant, ready to be measured.

    `kernel` names what really runs, `notes` are lines for the record of every part, and
    `quality_notes` further ones for what is scored.
    """

    job: Job
    kernel: str
    notes: tuple[str, ...]
    capabilities: frozenset[Capability]

    def can(self, capability: Capability) -> bool:
        """Whether the variant has a capability."""
        return capability in self.capabilities

    @property
    @abstractmethod
    def quality_notes(self) -> tuple[str, ...]:
        """Lines for the record of what is scored."""

    @property
    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The baseline's tokenizer, which all variants share."""

    @abstractmethod
    def score(
        self,
        windows: Windows,
        statistics: Collection[str],
        reference: Reference | None = None,
        *,
        record: ReferenceWriter | None = None,
        done: Collection[int] = (),
        batch_tokens: int | None = None,
    ) -> Iterator[ScoredBatch]:
        """Score the windows that are not `done`, batch by batch; see scoring.engine."""

    @abstractmethod
    def language_model(self, seed: int, batch_tokens: int | None = None) -> LanguageModel:
        """The variant as a language model of lm-eval; `seed` is that of sampled text.

        What it cannot score it answers with NaN.
        """


class LoadedSession(Session):
    """A variant that was loaded into this process.

    `model` runs the variant's own kernels, `scoring_model` has the arithmetic of the quality pass
    (`evalkit.backends.for_scoring`), which is set up when it is first asked for and replaces the
    former in place. `seconds` holds the time of "load" and, where a checkpoint was made,
    "quantize"; `resident_before` is the resident set in bytes before loading, `load_peaks` are the
    peaks of memory while it loaded, and `files` is the page cache's state before.
    """

    capabilities = frozenset({"distributions", "memory", "probes"})

    def __init__(
        self,
        job: Job,
        loaded: Loaded,
        seconds: dict[str, float],
        resident_before: int,
        load_peaks: dict[str, float],
        files: State,
    ) -> None:
        self.job, self.loaded, self.seconds = job, loaded, seconds
        self.resident_before, self.load_peaks, self.files = resident_before, load_peaks, files
        # A model of evalkit's own may run other kernels than it would elsewhere.
        own = getattr(loaded.model, "kernel_notes", ())
        beside = tower_note(loaded.model) if isinstance(loaded.model, PreTrainedModel) else ""
        self.kernel, self.notes = loaded.kernel, (*loaded.notes, *own, *filter(None, (beside,)))

    @property
    def model(self) -> PreTrainedModel:
        """The model with the variant's own kernels."""
        return self.loaded.model

    @property
    def scoring_model(self) -> PreTrainedModel:
        """The model with the arithmetic of the quality pass."""
        return self._scoring.model

    def scored_as(self, loaded: Loaded) -> LoadedSession:
        """This variant with `loaded`, and its own kernels, in what is scored too."""
        own = dataclasses.replace(loaded)
        own.scoring = own
        return LoadedSession(
            self.job, own, self.seconds, self.resident_before, self.load_peaks, self.files
        )

    @property
    def quality_notes(self) -> tuple[str, ...]:
        """The notes, with those of the arithmetic of the quality pass."""
        return self._scoring.notes

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """See Session."""
        return load_tokenizer(
            self.job.checkpoint.path, trust_remote_code=self.job.settings.trust_remote_code
        )

    @property
    def _scoring(self) -> Loaded:
        return for_scoring(self.loaded, self.job.device)

    def probe(self) -> Probe:
        """What a probe metric is handed."""
        return Probe(
            self.model,
            self.job.device,
            self.kernel,
            self.job.settings.protocol,
            self.resident_before,
            self.seconds,
            self.loaded.formats,
            self.load_peaks,
            self.files,
            unpacked=self.loaded.unpacked,
        )

    def engine(self, name: str, ids: Any, length: int) -> Prepared:
        """The decoding engine `name` for prompts `ids` and sequences of at most `length` tokens."""
        return prepare_engine(name, self.model, ids, length)

    def score(
        self,
        windows: Windows,
        statistics: Collection[str],
        reference: Reference | None = None,
        *,
        record: ReferenceWriter | None = None,
        done: Collection[int] = (),
        batch_tokens: int | None = None,
    ) -> Iterator[ScoredBatch]:
        """See Session."""
        return score_windows(
            self.scoring_model,
            windows,
            batch_tokens=batch_tokens or self.job.settings.batch_tokens,
            statistics=statistics,
            reference=reference,
            record=record,
            done=done,
            halve=not depends_on_batches(self.job),
        )

    def language_model(self, seed: int, batch_tokens: int | None = None) -> LanguageModel:
        """See Session."""
        return LocalLanguageModel(
            self.scoring_model,
            self.tokenizer,
            batch_tokens=batch_tokens or self.job.settings.batch_tokens,
            seed=seed,
            halve=not depends_on_batches(self.job),
            skip_unscorable=True,
        )


class ServedSession(Session):
    """A variant in a server, which gives the likelihood of the text itself and no distributions."""

    capabilities = frozenset()

    def __init__(self, job: Job, server: ServedModel) -> None:
        self.job, self.server = job, server
        self.kernel, self.notes = server.kernel, server.notes

    @property
    def quality_notes(self) -> tuple[str, ...]:
        """The notes."""
        return self.notes

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """See Session."""
        return self.server.tokenizer

    def score(
        self,
        windows: Windows,
        statistics: Collection[str],
        reference: Reference | None = None,
        *,
        record: ReferenceWriter | None = None,
        done: Collection[int] = (),
        batch_tokens: int | None = None,
    ) -> Iterator[ScoredBatch]:
        """See Session; one window at a time, of which only the likelihood is known."""
        return self.server.scored(windows, done)

    def language_model(self, seed: int, batch_tokens: int | None = None) -> LanguageModel:
        """See Session."""
        return self.server.language_model(seed)


@contextmanager
def open_variant(job: Job, send: Listener) -> Iterator[Session]:
    """The variant of `job`, loaded or served while the block runs.

    Raises VariantError in one line where it cannot be loaded, started or reached.
    """
    if spec_of(job.variant).served:
        with open_server(job, send) as server:
            yield ServedSession(job, server)
    else:
        yield _load(job, send)


def loaded(session: Session) -> LoadedSession:
    """The session as one whose model is here; raises VariantError for a served one."""
    if isinstance(session, LoadedSession):
        return session
    raise VariantError(
        f"{session.job.variant.label} runs in a server: what looks into a model needs it loaded"
        " here"
    )


def served(session: Session) -> ServedSession:
    """The session as one in a server; raises VariantError for a model that is loaded here."""
    if isinstance(session, ServedSession):
        return session
    raise VariantError(f"{session.job.variant.label} is loaded here: no server is asked for it")


def _load(job: Job, send: Listener) -> LoadedSession:
    source, seconds = _source(job)
    backend = plugins.load("backends", job.variant.backend)
    getattr(backend, "prepare", lambda: None)()
    if hasattr(backend, "build"):
        backend.build(job.checkpoint, job.variant, job.device, send)
    begin_context(job.device)
    before = level_before_loading(job.device)
    meter = PeakMeter(job.device, before)
    meter.reset()
    files = page_cache_state(weight_files_of(Path(job.variant.checkpoint or source)))
    send(Event(job.variant.label, "loading"))
    start = time.perf_counter()
    model = with_quantized_cache(_loaded(job, source), job.variant)
    wait_for(job.device)
    seconds["load"] = time.perf_counter() - start
    return LoadedSession(job, model, seconds, before, meter.peaks(), files)


def _source(job: Job) -> tuple[Path, dict[str, float]]:
    """The directory to load: the original checkpoint, or the quantized one from the store."""
    if not keeps(job.variant) or job.model.weights == "random":
        return job.checkpoint.path, {}
    from evalkit.backends._artifacts import find_artifact

    folder = Store(job.store).artifacts()
    artifact = find_artifact(folder, job.checkpoint, job.variant, job.calibration, job.device)
    if artifact is None:
        return job.checkpoint.path, {}
    return artifact.path, {"quantize": artifact.seconds}


def _loaded(job: Job, source: Path) -> Loaded:
    """Load the variant by its backend, or make it of random weights."""
    backend = plugins.load("backends", job.variant.backend)
    if job.model.weights == "random":
        if not hasattr(backend, "load_random"):
            raise VariantError(
                f"{job.variant.text} cannot be made of random weights: its backend loads"
                " checkpoints only; leave it out or give --weights checkpoint"
            )
        made: Loaded = backend.load_random(job.checkpoint, job.variant, job.device, seed=job.seed)
        return made
    found: Loaded = backend.load(
        source,
        job.variant,
        job.device,
        allow_pickle=job.settings.allow_pickle,
        trust_remote_code=job.settings.trust_remote_code,
    )
    return with_baseline_decoding(job, found)
