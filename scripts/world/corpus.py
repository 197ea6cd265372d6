"""Documents of a split, endlessly, and the text files made of them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from itertools import count, islice

from world.grammar import grammar_scene
from world.market import number_scene
from world.moves import moves_scene
from world.stories import family_scene, story_scene
from world.town import Split, World, make_world

SEPARATOR = "<|endoftext|>"
SCENES_PER_WORLD = 10


def write_scene(rng: random.Random, world: World) -> str:
    """One document of the town, of a random kind."""
    kind = rng.random()
    if kind < 0.34:
        return moves_scene(rng, world)
    if kind < 0.60:
        return number_scene(rng, world).text
    if kind < 0.80:
        return story_scene(rng, world).text
    if kind < 0.94:
        return grammar_scene(rng, world)
    return family_scene(rng, world)


def documents(split: Split, seed: int = 0, first_world: int = 0) -> Iterator[str]:
    """The documents of a split, town after town; the same seed gives the same documents."""
    for index in count(first_world):
        world = make_world(split, index, seed)
        rng = random.Random(f"scenes {split} {index} {seed}")
        for _ in range(SCENES_PER_WORLD):
            yield write_scene(rng, world)


def take_words(stream: Iterable[str], words: int) -> list[str]:
    """The first documents of the stream that hold at least `words` words together."""
    taken: list[str] = []
    total = 0
    for document in stream:
        taken.append(document)
        total += len(document.split())
        if total >= words:
            break
    return taken


def sentences(document: str) -> list[str]:
    """The sentences of a document, in order: questions and answers count singly."""
    return [part for part in re.split(r"(?<=[.?!])\s+|\n", document) if part]


def word_ngrams(document: str, n: int = 13) -> set[tuple[str, ...]]:
    """All runs of `n` whitespace-separated words."""
    words = document.split()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def without_overlap(stream: Iterable[str], held_out: Iterable[str], n: int = 13) -> Iterator[str]:
    """The documents of the stream that share no run of `n` words with any held-out document."""
    taboo = set().union(*(word_ngrams(document, n) for document in held_out))
    return (document for document in stream if taboo.isdisjoint(word_ngrams(document, n)))


def join_documents(texts: Iterable[str]) -> str:
    """One file: documents separated by a line of `SEPARATOR`."""
    return f"\n{SEPARATOR}\n".join(texts) + "\n"


def head(split: Split, number: int, seed: int = 0) -> list[str]:
    """The first `number` documents of a split."""
    return list(islice(documents(split, seed), number))
