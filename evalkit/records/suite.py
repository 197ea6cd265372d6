"""A suite: on what variants are measured, cut into the parts that are stored on their own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from evalkit.records.serialization import content_hash, to_json


@dataclass(frozen=True)
class TextSlice:
    """One evaluation text of a suite: its name, content hash and number of documents."""

    name: str
    sha256: str
    documents: int


@dataclass(frozen=True)
class TaskSlice:
    """One lm-eval task of a suite: number of few-shot examples, limit of items, chat or not.

    `chat_arguments` are KEY=VALUE words for the chat template. `data` is the hash of its local
    files, empty where the data comes from the hub.
    """

    name: str
    shots: int | None = None
    limit: int | None = None
    chat: bool = False
    system: str = ""
    data: str = ""
    chat_arguments: tuple[str, ...] = ()


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
        for task in content["tasks"]:
            if not task["chat_arguments"]:
                del task["chat_arguments"]
        content["texts"] = [(text.sha256, text.documents) for text in self.texts]
        return content_hash(content)

    def parts(self) -> tuple[Suite, ...]:
        """The suite cut into pieces that are measured and stored on their own.

        One for all texts, one for each task: adding a task or a text leaves the rest measured.
        """
        # Nothing is drawn where text is scored, so no seed is part of it.
        texts = [dataclasses.replace(self, tasks=(), limit=None, seed=0)] if self.texts else []
        bare = dataclasses.replace(self, texts=(), convention="", context=0, bos="", limit=None)
        return (*texts, *(dataclasses.replace(bare, tasks=(task,)) for task in self.tasks))
