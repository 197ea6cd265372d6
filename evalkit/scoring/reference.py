"""The baseline on disk: its final hidden states, from which a variant's pass rebuilds its logits.

A reference is a directory:

reference.json    layout of the rows and the hash of the windows
head.safetensors  weight and bias of the output head, and a few rows with their logits as a check
rows.bin          the final hidden states of all scored tokens in the model's own dtype (row_file)
complete.json     written last
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from evalkit.errors import StoreError, VariantError
from evalkit.scoring.head import (
    Forward,
    OutputHead,
    linear_layer,
    open_forward,
    plain_head,
)
from evalkit.scoring.rounding import same_logits
from evalkit.scoring.row_file import (
    SCHEMA,
    KeptRows,
    Layout,
    RowFile,
    read_layout,
    windows_hash,
)
from evalkit.store.files import make_directory, replacing, write_json
from evalkit.texts.windows import Windows

_CHECKED_ROWS = 4
# Enough to tell two architectures apart, few enough to cost nothing beside a batch.
_SAMPLE_TOKENS = 8


class ReferenceWriter:
    """Records the baseline's rows while it is scored; `forward` is how its model is run."""

    def __init__(
        self, directory: Path, forward: Forward, layout: Layout, rows: RowFile | KeptRows
    ) -> None:
        self.directory = directory
        self.forward = forward
        self.layout = layout
        self.rows = rows
        self.head: dict[str, Tensor] = {}
        self._background = ThreadPoolExecutor(1, thread_name_prefix="reference")
        self._syncing: Future[None] | None = None

    @classmethod
    def open(cls, directory: Path, model: PreTrainedModel, windows: Windows) -> ReferenceWriter:
        """Begin a reference in `directory`, or go on with the unfinished one of the same windows.

        Raises StoreError when the disk cannot hold it, or when another reference is there.
        """
        sample = window_sample(windows, model.device)
        forward = open_forward(model, sample, stored=True)
        head, layout = _stored_head(forward, sample, windows)
        path = directory / "rows.bin"
        if (directory / "reference.json").exists():
            if read_layout(directory / "reference.json") != layout:
                raise StoreError(
                    f"{directory} holds the reference of another model or text: "
                    "run again with --fresh"
                )
            return cls(directory, forward, layout, RowFile.open(path, windows, layout))
        make_directory(directory)
        rows = RowFile.create(path, windows, layout)
        if head:
            with replacing(directory / "head.safetensors") as temporary:
                save_file(head, temporary)
        write_json(directory / "reference.json", {"schema": SCHEMA, **asdict(layout)})
        return cls(directory, forward, layout, rows)

    @classmethod
    def in_memory(cls, model: PreTrainedModel, windows: Windows) -> ReferenceWriter:
        """Begin a reference of some of the windows that is kept in memory; see `Reference.kept`."""
        sample = window_sample(windows, model.device)
        forward = open_forward(model, sample, stored=True)
        head, layout = _stored_head(forward, sample, windows)
        made = cls(Path(), forward, layout, KeptRows(windows))
        made.head = head
        return made

    def write(self, batch: NDArray[np.int64], rows: Tensor) -> None:
        """Write `rows` (scored tokens of the windows of `batch`, width); `flush` waits for it."""
        self.rows.write(batch, rows)
        self._syncing = self._background.submit(self.rows.sync)

    def flush(self) -> None:
        """Return when everything written is on the disk."""
        if self._syncing is not None:
            self._syncing.result()
            self._syncing = None

    def complete(self) -> None:
        """Mark the reference as whole; raises StoreError where a window was not written."""
        self.flush()
        missing = self.layout.windows - self.rows.written()
        if missing:
            raise StoreError(
                f"{self.directory} lacks {missing} of {self.layout.windows} windows: "
                "run again with --fresh"
            )
        content = {"schema": SCHEMA, "content": self.layout.content}
        write_json(self.directory / "complete.json", content)


class Reference:
    """A baseline's logits, rebuilt on the model of a variant; `forward` is how that one is run."""

    def __init__(
        self, forward: Forward, layout: Layout, rows: RowFile | KeptRows, head: OutputHead | None
    ):
        self.forward = forward
        self.layout = layout
        self._rows = rows
        self._head = head

    @classmethod
    def open(cls, directory: Path, model: PreTrainedModel, windows: Windows) -> Reference:
        """The complete reference in `directory`, for a variant `model` of the same architecture.

        Raises StoreError where it is unfinished, truncated or of another text, VariantError where
        `model` cannot rebuild its logits.
        """
        if not (directory / "complete.json").exists():
            raise StoreError(f"{directory} holds no finished reference: score the baseline first")
        layout = read_layout(directory / "reference.json")
        if layout.content != windows_hash(windows):
            raise StoreError(f"{directory} is of another text: run again with --fresh")
        rows = RowFile.open(directory / "rows.bin", windows, layout)
        forward = open_forward(model, window_sample(windows, model.device))
        if layout.kind == "logits":
            return cls(forward, layout, rows, None)
        stored = _read_head(directory / "head.safetensors")
        return cls(forward, layout, rows, _rebuilding_head(forward, layout, stored))

    @classmethod
    def kept(cls, writer: ReferenceWriter, model: PreTrainedModel, windows: Windows) -> Reference:
        """What `writer` keeps in memory, for a variant `model` of the same architecture."""
        forward = open_forward(model, window_sample(windows, model.device))
        logits = writer.layout.kind == "logits"
        head = None if logits else _rebuilding_head(forward, writer.layout, writer.head)
        return cls(forward, writer.layout, writer.rows, head)

    def rows(self, batch: NDArray[np.int64]) -> Tensor:
        """Stored rows (scored tokens of the windows of `batch`, width), on the CPU."""
        return self._rows.read(batch)

    def logits(self, rows: Tensor) -> Tensor:
        """Logits (n, vocabulary) of stored rows (n, width), on the rows' device."""
        return rows if self._head is None else self._head(rows)


def window_sample(windows: Windows, device: torch.device) -> Tensor:
    """The first ids a model reads, int64 (length,): what `open_forward` checks it on."""
    ids = windows.window(0)[:-1][:_SAMPLE_TOKENS].astype(np.int64)
    return torch.from_numpy(ids).to(device)


@torch.inference_mode()
def _stored_head(
    forward: Forward, sample: Tensor, windows: Windows
) -> tuple[dict[str, Tensor], Layout]:
    """What head.safetensors holds (nothing where rows are logits), and the layout of the rows."""
    rows = forward.rows(sample[None])[0, -_CHECKED_ROWS:]
    logits = forward.logits(rows)
    layout = Layout(
        kind=forward.kind,
        dtype=str(rows.dtype).removeprefix("torch."),
        width=rows.shape[1],
        vocabulary=logits.shape[1],
        windows=len(windows),
        tokens=int(windows.scored.sum()),
        content=windows_hash(windows),
        architecture=type(forward.model).__name__,
        note=forward.note,
    )
    if forward.head is None:
        return {}, layout
    tensors = {"check_rows": rows, "check_logits": logits}
    tensors |= dict(plain_head(forward.model).named_parameters())
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, layout


@torch.inference_mode()
def _rebuilding_head(forward: Forward, layout: Layout, stored: dict[str, Tensor]) -> OutputHead:
    """The variant's way from hidden states to logits with the baseline's head in it."""
    name = type(forward.model).__name__
    if forward.head is None:
        raise VariantError(f"the baseline's logits cannot be rebuilt with {name}: {forward.note}")
    weight, bias = stored["weight"], stored.get("bias")
    head = forward.head
    if not _is_own_head(forward.model, weight, bias):
        device = forward.model.device
        linear = linear_layer(weight.to(device), None if bias is None else bias.to(device))
        head = OutputHead(head.model, head.body, head.output, linear)
    rebuilt = head(stored["check_rows"].to(forward.model.device))
    if not same_logits(rebuilt, stored["check_logits"].to(rebuilt.device)):
        raise VariantError(
            f"the baseline's logits cannot be rebuilt with {name}: the baseline is a "
            f"{layout.architecture} of another configuration; compare variants of one model"
        )
    return head


def _is_own_head(model: PreTrainedModel, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the model's head is this one already, so that none is held twice."""
    try:
        own = plain_head(model)
    except ValueError:
        return False
    return _equal(own.weight, weight) and _equal(getattr(own, "bias", None), bias)


def _equal(mine: Tensor | None, theirs: Tensor | None) -> bool:
    if mine is None or theirs is None:
        return mine is theirs
    return mine.dtype == theirs.dtype and torch.equal(mine, theirs.to(mine.device))


def _read_head(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path} cannot be read ({error}): run again with --fresh") from error
