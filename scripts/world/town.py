"""A small town: its people, belongings, streets and shops, made from a seed.

Worlds are disjoint by construction: `split_of` hashes the two words of a name to `train`,
`calibration` or `test`, and a town of one split takes only names of that split. So no person, no
belonging, no shop and no town of a test world ever occurs in the training text, although each of
their words does.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from world import lexicon

Split = Literal["train", "calibration", "test"]
T = TypeVar("T")


@functools.cache
def split_of(first: str, second: str) -> Split:
    """The split that owns the name `first second`: 80 % train, 10 % calibration, 10 % test."""
    bucket = hashlib.sha256(f"{first} {second}".encode()).digest()[0] % 10
    if bucket == 9:
        return "test"
    return "calibration" if bucket == 8 else "train"


@functools.cache
def _partners(split: Split, first: str, seconds: tuple[str, ...]) -> tuple[str, ...]:
    """Every second word that makes a name of `split` with `first`."""
    return tuple(second for second in seconds if split_of(first, second) == split)


def draw_name(
    rng: random.Random, split: Split, firsts: Sequence[str], seconds: Sequence[str]
) -> tuple[str, str]:
    """A random pair of words that belongs to `split`."""
    while True:
        first = rng.choice(firsts)
        partners = _partners(split, first, tuple(seconds))
        if partners:
            return first, rng.choice(partners)


@dataclass(frozen=True)
class Person:
    """Somebody who lives in the town."""

    first: str
    surname: str
    female: bool
    trade: str

    @property
    def full(self) -> str:
        """First name and surname: unique to one split."""
        return f"{self.first} {self.surname}"

    @property
    def she(self) -> str:
        """The pronoun as a subject."""
        return "she" if self.female else "he"

    @property
    def her(self) -> str:
        """The possessive pronoun."""
        return "her" if self.female else "his"

    @property
    def herself(self) -> str:
        """The reflexive pronoun."""
        return "herself" if self.female else "himself"


@dataclass(frozen=True)
class Item:
    """A belonging, such as the green lamp."""

    adjective: str
    noun: str

    @property
    def one(self) -> str:
        """Adjective and noun: unique to one split."""
        return f"{self.adjective} {self.noun}"

    @property
    def many(self) -> str:
        """Adjective and plural noun."""
        return f"{self.adjective} {lexicon.plural(self.noun)}"

    @property
    def a(self) -> str:
        """With the indefinite article."""
        return f"{lexicon.article(self.adjective)} {self.one}"


@dataclass(frozen=True)
class Shop:
    """A shop in a street; opening hours on the 24-hour clock."""

    kind: str
    street: str
    opens: int
    closes: int

    @property
    def name(self) -> str:
        """Kind and street: the street is unique to one split."""
        return f"{self.kind} in {self.street}"


@dataclass(frozen=True)
class World:
    """A town. Within it first names, nouns, places and kinds of shop are unique."""

    split: Split
    town: str
    people: tuple[Person, ...]
    items: tuple[Item, ...]
    places: tuple[str, ...]
    shops: tuple[Shop, ...]


def _people(rng: random.Random, split: Split, count: int) -> tuple[Person, ...]:
    trades = rng.sample(lexicon.TRADES, count)
    people: dict[str, Person] = {}
    while len(people) < count:
        female = rng.random() < 0.5
        firsts = lexicon.FEMALE if female else lexicon.MALE
        first, surname = draw_name(rng, split, firsts, lexicon.SURNAMES)
        people.setdefault(first, Person(first, surname, female, trades[len(people)]))
    return tuple(people.values())


def _items(rng: random.Random, split: Split, count: int) -> tuple[Item, ...]:
    items: dict[str, Item] = {}
    while len(items) < count:
        noun, adjective = rng.choice(lexicon.NOUNS), rng.choice(lexicon.ADJECTIVES)
        if split_of(adjective, noun) == split:
            items.setdefault(noun, Item(adjective, noun))
    return tuple(items.values())


def _shops(rng: random.Random, split: Split, count: int) -> tuple[Shop, ...]:
    shops = []
    for kind in rng.sample(lexicon.SHOPS, count):
        street = " ".join(draw_name(rng, split, lexicon.STREETS, lexicon.STREET_KINDS))
        shops.append(Shop(kind, street, rng.randint(5, 11), rng.randint(13, 22)))
    return tuple(shops)


def make_world(split: Split, index: int, seed: int = 0) -> World:
    """The `index`-th town of a split: the same arguments make the same town."""
    rng = random.Random(f"town {split} {index} {seed}")
    return World(
        split=split,
        town=" ".join(draw_name(rng, split, lexicon.TOWN_KINDS, lexicon.TOWNS)),
        people=_people(rng, split, 8),
        items=_items(rng, split, 10),
        places=tuple(rng.sample(lexicon.PLACES, 8)),
        shops=_shops(rng, split, 4),
    )
