"""evalkit's own commands in this process: starting one costs more than a small model's work."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from evalkit.errors import EvalkitError, OutOfMemoryError
from evalkit.metrics import Protocol
from evalkit.models.layer_format import format_of
from evalkit.models.packed_parameters import Unpacking
from evalkit.running import process
from evalkit.running.compare import worker
from evalkit.running.session import LoadedSession

# Speed is not the question here: only whether it can be measured.
QUICK = Protocol(prompt=24, generate=4, seconds=0.0)
_PLAIN = (EvalkitError, OutOfMemoryError)


@dataclass
class Watched:
    """What went on inside: errors that are not evalkit's own, and the share of packed weights."""

    raw: list[str] = field(default_factory=list)
    packed: dict[str, float] = field(default_factory=dict)
    weight_bytes: dict[str, int] = field(default_factory=dict)


@contextlib.contextmanager
def in_this_process() -> Iterator[Watched]:
    """Let everything that evalkit hands to a child run here."""
    watched = Watched()
    own_line, own_open = process.shown_in_one_line, worker.open_variant

    def shown(error: BaseException) -> EvalkitError:
        if not isinstance(error, _PLAIN):
            watched.raw.append(f"{type(error).__name__}: {error}"[:300])
        return own_line(error)

    def here(task: Any, job: Any, listener: Any, *, gpu: str | None = None) -> Any:
        if hasattr(job, "settings"):
            settings = dataclasses.replace(job.settings, protocol=QUICK)
            job = dataclasses.replace(job, settings=settings)
        try:
            return task(job, listener)
        except Exception as error:
            raise shown(error) from error

    @contextlib.contextmanager
    def opened(job: Any, send: Any) -> Iterator[Any]:
        with own_open(job, send) as session:
            if isinstance(session, LoadedSession):
                _look(watched, job.variant.text, session)
            yield session

    changed = {"run_child": here, "shown_in_one_line": shown, "open_variant": opened}
    kept = [
        (module, name, getattr(module, name))
        for module in list(sys.modules.values())
        if getattr(module, "__name__", "").startswith("evalkit.running")
        for name in changed
        if hasattr(module, name)
    ]
    for module, name, _ in kept:
        setattr(module, name, changed[name])
    try:
        yield watched
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


def _look(watched: Watched, text: str, session: LoadedSession) -> None:
    """Count, by means of its own, what a loaded variant holds."""
    model, formats = session.model, session.loaded.formats
    seen, total = set(), 0
    for tensor in [*model.parameters(), *_persistent(model)]:
        if hasattr(tensor, "__tensor_flatten__"):
            continue
        place = (tensor.data_ptr(), tensor.numel())
        total += 0 if place in seen else tensor.numel() * tensor.element_size()
        seen.add(place)
    watched.weight_bytes[text] = total
    held = packed = 0
    decoder = model.get_decoder()
    text_stack = decoder if isinstance(decoder, PreTrainedModel) else model.base_model
    for module in text_stack.modules():
        if isinstance(module, Unpacking):
            held, packed = held + module.shape.numel(), packed + module.shape.numel()
        if not hasattr(module, "in_features") or module is model.get_output_embeddings():
            continue
        size = module.in_features * module.out_features
        held += size
        packed += size if format_of(module, formats) is not None else 0
    # Fused experts are linear weights too.
    held += sum(p.numel() for p in text_stack.parameters() if p.dim() == 3 and min(p.shape) > 4)
    watched.packed[text] = packed / held if held else 0.0


def _persistent(model: Any) -> Iterator[Any]:
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield buffer
