"""Short stories whose last word follows from the story alone, and families.

A story's last word (an owner, a finder, a place, a trade, a thing) was named before, among others
of its kind: the last-word task, in the manner of LAMBADA (Paperno et al. 2016).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from evalkit.suites.world import lexicon
from evalkit.suites.world.town import Person, World, split_of


class Story(NamedTuple):
    """A story up to its last word, and that word (no full stop)."""

    beginning: str
    last_word: str

    @property
    def text(self) -> str:
        """The story as a document."""
        return f"{self.beginning} {self.last_word}."


def _neighbours(rng: random.Random, world: World, people: list[Person]) -> str:
    """A sentence or two to introduce the people, in any order."""
    shuffled = rng.sample(people, len(people))
    introductions = []
    for person in shuffled:
        trade = f"{lexicon.article(person.trade)} {person.trade}"
        introductions.append(rng.choice((
            f"{person.full} is {trade}.",
            f"{person.full} works as {trade}.",
            f"In {world.town} lives {person.full}, {trade}.",
            f"{person.full} of {world.town} is {trade}.",
        )))  # fmt: skip
    return " ".join(introductions)


def _lost(rng: random.Random, world: World) -> Story:
    owner, finder, other = rng.sample(world.people, 3)
    item = rng.choice(world.items)
    first, second, third = rng.sample(world.places, 3)
    facts = [
        _neighbours(rng, world, [owner, finder, other]),
        rng.choice((
            f"Yesterday {owner.first} lost {owner.her} {item.one}.",
            f"One day {owner.first} missed {owner.her} {item.one}.",
        )),
        rng.choice((
            f"{other.first} looked for the {item.one} in the {first}.",
            f"{owner.first} and {other.first} looked for the {item.one} in the {first}.",
        )),
        f"{other.first} thought that the {item.one} was in the {second}, but it was not there.",
        rng.choice((
            f"Then {finder.first} found the {item.one} in the {third}.",
            f"It was {finder.first} who saw the {item.one} in the {third}.",
        )),
    ]  # fmt: skip
    ending, word = rng.choice((
        (f"So the {item.one} had been in the {third}, and the one who found it was", finder.first),
        (f"{finder.first} gave the {item.one} back to its owner,", owner.first),
        (f"So {owner.first} got back the {item.one}, which had been in the", third),
    ))  # fmt: skip
    return Story(" ".join([*facts, ending]), word)


def _gift(rng: random.Random, world: World) -> Story:
    giver, receiver, other = rng.sample(world.people, 3)
    item, rival = rng.sample(world.items, 2)
    facts = [
        _neighbours(rng, world, [giver, receiver, other]),
        rng.choice((
            f"{giver.first} bought {item.a} as a present for {receiver.first}.",
            f"For {receiver.first} there was {item.a}, a present from {giver.first}.",
            f"{giver.first} made {item.a} and gave it to {receiver.first}.",
        )),
        f"{other.first} wanted the {item.one} too, but got only {rival.a}.",
    ]  # fmt: skip
    ending, word = rng.choice(
        (
            (f"The {item.one} now belongs to", receiver.first),
            (f"The {rival.one} now belongs to", other.first),
            (
                f"Whenever {receiver.first} sees the {item.one}, {receiver.she} thinks of",
                giver.first,
            ),
            (f"Nothing pleases {receiver.full} more than the {item.adjective}", item.noun),
        )
    )
    return Story(" ".join([*facts, ending]), word)


def _trade(rng: random.Random, world: World) -> Story:
    people = rng.sample(world.people, 3)
    item, place = rng.choice(world.items), rng.choice(world.places)
    hero = rng.choice(people)
    facts = [
        _neighbours(rng, world, people),
        rng.choice((
            f"One day {hero.first} needed {item.a} and went to the {place} for it.",
            f"In the {place} {hero.first} saw {item.a} and bought it.",
            f"{hero.first} sold {item.a} in the {place}.",
        )),
    ]  # fmt: skip
    ending, word = rng.choice(
        (
            (f"Everyone in {world.town} knows {hero.first} the", hero.trade),
            (f"So the {item.one} is the talk of the {place}, says {hero.first} the", hero.trade),
            (f"Ask in {world.town} for {hero.first}, or simply for the", hero.trade),
        )
    )
    return Story(" ".join([*facts, ending]), word)


KINDS: tuple[Callable[[random.Random, World], Story], ...] = (_lost, _gift, _trade)


def story_scene(rng: random.Random, world: World) -> Story:
    """One story of any kind."""
    return rng.choice(KINDS)(rng, world)


def _kin(rng: random.Random, world: World, surname: str, names: list[str], used: list[str]) -> str:
    """A first name, not used yet, that makes a name of the world's split with `surname`."""
    free = [n for n in names if n not in used and split_of(n, surname) == world.split]
    used.append(rng.choice(free))
    return f"{used[-1]} {surname}"


def _family_facts(rng: random.Random, mother: str, father: str, son: str, daughter: str) -> str:
    couple = rng.choice((f"{mother} and {father}", f"{father} and {mother}"))
    children = rng.choice((
        f"their son is {son} and their daughter is {daughter}.",
        f"they have a daughter called {daughter} and a son called {son}.",
        f"their children are {son} and {daughter}.",
    ))  # fmt: skip
    return f"{couple} are married, and {children}"


def family_scene(rng: random.Random, world: World) -> str:
    """A document: one or two families and questions on who is who."""
    lines, questions = [], []
    used: list[str] = []
    for surname in rng.sample(lexicon.SURNAMES, rng.randint(1, 2)):
        mother = _kin(rng, world, surname, lexicon.FEMALE, used)
        father = _kin(rng, world, surname, lexicon.MALE, used)
        son = _kin(rng, world, surname, lexicon.MALE, used)
        daughter = _kin(rng, world, surname, lexicon.FEMALE, used)
        lines.append(_family_facts(rng, mother, father, son, daughter))
        child = rng.choice((son, daughter))
        answers = {
            f"the mother of {child}": mother,
            f"the father of {child}": father,
            f"the husband of {mother}": father,
            f"the wife of {father}": mother,
            f"the brother of {daughter}": son,
            f"the sister of {son}": daughter,
        }
        for who in rng.sample(list(answers), 2):
            relation = f"{who[0].upper()}{who[1:]}"
            questions.append(f"Who is {who}? {relation} is {answers[who]}.")
    rng.shuffle(questions)
    return "\n".join([" ".join(lines), *questions])
