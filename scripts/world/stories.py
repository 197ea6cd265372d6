"""Short stories whose last word follows from the story alone, and families.

A story's last word (an owner, a finder, a place, a trade, a thing) was named before, among others
of its kind: the last-word task, in the manner of LAMBADA (Paperno et al. 2016).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from world import lexicon
from world.town import Person, World, split_of


class Story(NamedTuple):
    """A story up to its last word, and that word (no full stop)."""

    beginning: str
    last_word: str

    @property
    def text(self) -> str:
        """The story as a document."""
        return f"{self.beginning} {self.last_word}."


def _neighbours(rng: random.Random, people: list[Person]) -> str:
    """A sentence each to introduce the people, in any order."""
    sentences = []
    for person in rng.sample(people, len(people)):
        trade = f"{lexicon.article(person.trade)} {person.trade}"
        verb = rng.choice(("is", "was", "became"))
        sentences.append(f"{person.full} {verb} {trade}.")
    return " ".join(sentences)


def _lost(rng: random.Random, world: World) -> Story:
    """Two belongings are found again in two places; the last word is one of the places."""
    owner, finder = rng.sample(world.people, 2)
    item, rival = rng.sample(world.items, 2)
    first, second = rng.sample(world.places, 2)
    found = [
        rng.choice((
            f"Then {finder.first} found the {thing.one} in the {place}.",
            f"It was {finder.first} who saw the {thing.one} in the {place}.",
            f"{finder.first} came upon the {thing.one} in the {place}.",
        ))
        for thing, place in ((item, first), (rival, second))
    ]  # fmt: skip
    facts = [
        _neighbours(rng, [owner, finder]),
        rng.choice((
            f"Yesterday {owner.first} lost {owner.her} {item.one} and {owner.her} {rival.one}.",
            f"One day {owner.first} missed {owner.her} {item.one} and {owner.her} {rival.one}.",
        )),
        *rng.sample(found, 2),
    ]  # fmt: skip
    thing, place = rng.choice(((item, first), (rival, second)))
    ending = rng.choice(("So they found", "So there was", "In the end one saw"))
    return Story(" ".join([*facts, f"{ending} the {thing.one} in the"]), place)


def _gift(rng: random.Random, world: World) -> Story:
    """Two presents for two people; the last word is the one who has one of them."""
    giver, receiver, other = rng.sample(world.people, 3)
    item, rival = rng.sample(world.items, 2)
    given = [
        f"The {thing.one} {rng.choice(('went to', 'was for', 'belongs to'))} {who.first}."
        for thing, who in ((item, receiver), (rival, other))
    ]
    facts = [
        _neighbours(rng, [giver, receiver, other]),
        rng.choice((
            f"{giver.first} bought {item.a} and {rival.a} as presents.",
            f"{giver.first} made {item.a} and {rival.a} with {giver.her} own hands.",
        )),
        *rng.sample(given, 2),
    ]  # fmt: skip
    thing, who = rng.choice(((item, receiver), (rival, other)))
    ending = rng.choice(("belongs to", "went to", "was for"))
    return Story(" ".join([*facts, f"All know that the {thing.one} {ending}"]), who.first)


def _trade(rng: random.Random, world: World) -> Story:
    """People and their trades; the last word is the trade of one of them."""
    people = rng.sample(world.people, 3)
    item, place = rng.choice(world.items), rng.choice(world.places)
    hero = rng.choice(people)
    facts = [
        _neighbours(rng, people),
        rng.choice((
            f"One day {hero.first} needed {item.a} and went to the {place} for it.",
            f"In the {place} {hero.first} saw {item.a} and bought it.",
            f"{hero.first} sold {item.a} in the {place}.",
        )),
    ]  # fmt: skip
    trade = f"{lexicon.article(hero.trade)} {hero.trade}"
    opening = f"Everyone in {world.town} knows that {hero.full} is"
    article, _, word = trade.partition(" ")
    return Story(" ".join([*facts, f"{opening} {article}"]), word)


KINDS: tuple[Callable[[random.Random, World], Story], ...] = (_lost, _gift, _trade)


def story_scene(rng: random.Random, world: World) -> Story:
    """One story of any kind."""
    return rng.choice(KINDS)(rng, world)


def _names(world: World, surname: str, names: Sequence[str]) -> list[str]:
    """First names that make a name of the world's split with `surname`."""
    return [name for name in names if split_of(name, surname) == world.split]


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
    surnames = [
        surname
        for surname in lexicon.SURNAMES
        if min(len(_names(world, surname, n)) for n in (lexicon.FEMALE, lexicon.MALE)) > 1
    ]
    for surname in rng.sample(surnames, rng.randint(1, 2)):
        mother, daughter, father, son = (
            f"{name} {surname}"
            for names in (lexicon.FEMALE, lexicon.MALE)
            for name in rng.sample(_names(world, surname, names), 2)
        )
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
