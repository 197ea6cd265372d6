"""Scenes in which belongings are moved about the town, and questions on where they are.

What a reader must do is remember the last place of each belonging, its owner and who moved it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from world.town import Item, Person, World

TIMES = (
    "In the morning", "At noon", "After lunch", "Later", "Then", "In the evening", "Soon",
    "An hour later", "Before dinner", "The next day", "A little later", "Towards evening",
    "On the way home", "During the storm", "After work", "At last",
)  # fmt: skip
CARRIED = ("carried", "moved", "took", "brought", "pushed", "delivered", "returned", "sent")


@dataclass
class MoveStory:
    """Sentences about a few belongings, and the state of affairs after the last of them."""

    items: tuple[Item, ...]
    owners: dict[Item, Person]
    sentences: list[str] = field(default_factory=list)
    places: dict[Item, list[str]] = field(default_factory=dict)
    movers: dict[Item, Person] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The story as one paragraph."""
        return " ".join(self.sentences)

    def where(self, item: Item) -> str:
        """Where the belonging is now."""
        return self.places[item][-1]


def named(rng: random.Random, person: Person) -> str:
    """The person by the full name or by the first name."""
    return person.full if rng.random() < 0.5 else person.first


def _placed(rng: random.Random, owner: Person, item: Item, place: str) -> str:
    return rng.choice((
        f"{owner.full} keeps {owner.her} {item.one} in the {place}.",
        f"{owner.full} stored {item.a} in the {place}.",
        f"{owner.full} put {owner.her} {item.one} in the {place}.",
        f"{owner.full} the {owner.trade} had left {item.a} in the {place}.",
        f"There was {item.a} in the {place}, and it belonged to {owner.full}.",
        f"{owner.full} had {item.a} in the {place}.",
    ))  # fmt: skip


def _moved(rng: random.Random, mover: Person, item: Item, old: str, new: str) -> str:
    who, verb = named(rng, mover), rng.choice(CARRIED)
    clause = rng.choice((
        f"{who} {verb} the {item.one} to the {new}",
        f"{who} {verb} the {item.one} to the {new}",
        f"{who} came to the {old} and {verb} the {item.one} to the {new}",
        f"{who} put the {item.one} in the {new}",
        f"{who} left the {item.one} in the {new}",
        f"{who} hid the {item.one} in the {new}",
    ))  # fmt: skip
    if rng.random() < 0.5:
        return f"{rng.choice(TIMES)} {clause}."
    return f"{clause[0].upper()}{clause[1:]}."


def tell_moves(rng: random.Random, world: World, items: int, moves: int) -> MoveStory:
    """A story that places `items` belongings and then moves them `moves` times in all."""
    chosen = tuple(rng.sample(world.items, items))
    owners = dict(zip(chosen, rng.sample(world.people, items), strict=True))
    story = MoveStory(chosen, owners)
    for item in chosen:
        place = rng.choice(world.places)
        story.places[item] = [place]
        story.movers[item] = owners[item]
        story.sentences.append(_placed(rng, owners[item], item, place))
    for _ in range(moves):
        add_move(rng, world, story)
    return story


def add_move(rng: random.Random, world: World, story: MoveStory) -> None:
    """Move one belonging of the story to another place."""
    item = rng.choice(story.items)
    old = story.where(item)
    new = rng.choice([place for place in world.places if place != old])
    mover = rng.choice(world.people)
    story.sentences.append(_moved(rng, mover, item, old, new))
    story.places[item].append(new)
    story.movers[item] = mover


def where_question(rng: random.Random, item: Item) -> str:
    """A question for the present place of a belonging."""
    return rng.choice((
        f"Where is the {item.one} now?",
        f"Where is the {item.one}?",
        f"Where can one find the {item.one}?",
        f"In which place is the {item.one} now?",
    ))  # fmt: skip


def where_answer(item: Item) -> str:
    """The beginning of the answer: the place is what follows."""
    return f"One finds the {item.one} in the"


def _question(rng: random.Random, story: MoveStory, item: Item) -> str:
    kind = rng.random()
    if kind < 0.7:
        return f"{where_question(rng, item)} {where_answer(item)} {story.where(item)}."
    if kind < 0.85:
        owner = story.owners[item].full
        return f"Who owns the {item.one}? The {item.one} belongs to {owner}."
    place = story.places[item][0]
    return f"Where was the {item.one} at first? At first the {item.one} was in the {place}."


def moves_scene(rng: random.Random, world: World) -> str:
    """A document: belongings are moved, with questions on the way and at the end."""
    items = rng.choice((1, 2, 2, 2, 3, 3))
    story = tell_moves(rng, world, items, rng.randint(0, 2))
    lines = []
    for _ in range(rng.randint(1, 3)):
        questions = [_question(rng, story, item) for item in rng.sample(story.items, min(2, items))]
        lines += [story.text, *questions]
        story.sentences.clear()
        for _ in range(rng.randint(1, 3)):
            add_move(rng, world, story)
    if items > 1 and rng.random() < 0.5:
        questions = [_question(rng, story, item) for item in story.items]
        lines += [story.text, *questions]
    return "\n".join(lines)
