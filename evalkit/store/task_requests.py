"""What one task asks of a model: items and requests, fixed once and reused by every variant.

Plain records with a content hash, kept as Parquet; needs neither lm-eval nor torch.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evalkit.errors import StoreError
from evalkit.records import content_hash
from evalkit.store.files import replacing

Kind = Literal["loglikelihood", "loglikelihood_rolling", "generate_until"]

SCHEMA = "evalkit.task_requests/1"
_ROWS_AT_ONCE = 256
_ITEM = pa.schema(
    [
        ("doc_id", pa.int32()),
        ("doc_hash", pa.string()),
        ("prompt_hash", pa.string()),
        ("target", pa.string()),
        ("gold", pa.int32()),
        ("choices", pa.list_(pa.string())),
        ("cluster", pa.int32()),
        # Equal contexts of an item (one per choice) are stored once.
        ("contexts", pa.list_(pa.string())),
        (
            "requests",
            pa.list_(
                pa.struct(
                    [
                        ("kind", pa.string()),
                        ("context", pa.int32()),
                        ("continuation", pa.string()),
                        ("generation", pa.string()),
                    ]
                )
            ),
        ),
    ]
)


@dataclass(frozen=True)
class Request:
    """One question to the model, in lm-eval's terms.

    loglikelihood: of `continuation` after `context`. loglikelihood_rolling: of the whole text
    `continuation`; `context` is empty. generate_until: text after `context`, with the generation
    settings in `generation` (JSON).
    """

    kind: Kind
    context: str
    continuation: str = ""
    generation: str = ""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments of lm-eval's Instance; generation settings are a new dict each time."""
        if self.kind == "loglikelihood":
            return (self.context, self.continuation)
        if self.kind == "loglikelihood_rolling":
            return (self.continuation,)
        return (self.context, json.loads(self.generation))


@dataclass(frozen=True)
class TaskItem:
    """One document: its number, hashes as lm-eval logs them, target, choices and requests.

    `gold` is the index of the right choice, or None where there is not exactly one; `cluster`
    numbers the group of items that share a passage or source (each item its own, where none do).
    """

    doc_id: int
    doc_hash: str
    prompt_hash: str
    target: str
    gold: int | None
    choices: tuple[str, ...]
    cluster: int
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class TaskRequests:
    """All requests of one task, in order, and what fixed them.

    `repeats` is how often each request is answered; `chat` is the hash of the chat template and
    system instruction ("" without); `random_seeds` are those of lm-eval's random draws; `lm_eval`
    is its version, which defines prompts ("" where it is not known).
    """

    task: str
    version: str
    output_type: str
    split: str
    source: str
    shots: int
    limit: int | None
    repeats: int
    chat: str
    random_seeds: dict[str, int]
    notes: tuple[str, ...]
    items: tuple[TaskItem, ...]
    lm_eval: str = ""

    @cached_property
    def id(self) -> str:
        """Hash of what the model is asked and of the documents behind it; names of files,
        seeds, versions and notes play no part."""
        items = [
            (item.doc_hash, item.target, [asdict(request) for request in item.requests])
            for item in self.items
        ]
        return content_hash([self.task, self.version, self.output_type, self.repeats, items])

    def flat(self) -> Iterator[tuple[TaskItem, int, Request]]:
        """Every answer that is wanted: item, index of the request in it, request.

        The place in this sequence is the answer's position; repeats follow each other.
        """
        for item in self.items:
            for index, request in enumerate(item.requests):
                for _ in range(self.repeats):
                    yield item, index, request

    @cached_property
    def count(self) -> int:
        """Number of answers wanted."""
        return sum(len(item.requests) for item in self.items) * self.repeats

    def save(self, path: Path) -> None:
        """Write as one Parquet file, whole or not at all."""
        head = asdict(self) | {"schema": SCHEMA, "id": self.id}
        head.pop("items")
        rows = pa.Table.from_pylist([_row(item) for item in self.items], schema=_ITEM)
        table = rows.replace_schema_metadata({"evalkit": json.dumps(head)})
        with replacing(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> TaskRequests:
        """Read what `save` wrote; raises StoreError for anything else, or if it was changed."""
        try:
            table = pq.read_table(path)
            head = json.loads(table.schema.metadata[b"evalkit"])
            if head.pop("schema") != SCHEMA:
                raise StoreError(f"{path} is not of the schema {SCHEMA}; run again with --fresh")
            kept = head.pop("id")
            parts = table.to_batches(max_chunksize=_ROWS_AT_ONCE)
            items = tuple(_item(row) for part in parts for row in part.to_pylist())
            requests = cls(**{**head, "notes": tuple(head["notes"]), "items": items})
        except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
            line = (str(error) or type(error).__name__).splitlines()[0]
            raise StoreError(f"{path} holds no task requests ({line}); use --fresh") from error
        if requests.id != kept:
            raise StoreError(f"{path} was changed after it was written; run again with --fresh")
        return requests


def read_items(path: Path, doc_ids: Collection[int]) -> dict[int, TaskItem]:
    """The items with these numbers from a file that `TaskRequests.save` wrote, unchecked."""
    try:
        table = pq.read_table(path, filters=pc.field("doc_id").isin(list(doc_ids)))
        return {row["doc_id"]: _item(row) for row in table.to_pylist()}
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise StoreError(f"{path} holds no task requests ({line}); use --fresh") from error


def _row(item: TaskItem) -> dict[str, Any]:
    contexts = list(dict.fromkeys(request.context for request in item.requests))
    place = {context: number for number, context in enumerate(contexts)}
    row = asdict(item) | {"contexts": contexts}
    row["requests"] = [asdict(r) | {"context": place[r.context]} for r in item.requests]
    return row


def _item(row: dict[str, Any]) -> TaskItem:
    contexts = row.pop("contexts")
    requests = tuple(
        Request(**{**request, "context": contexts[request["context"]]})
        for request in row.pop("requests")
    )
    return TaskItem(**{**row, "choices": tuple(row["choices"]), "requests": requests})
