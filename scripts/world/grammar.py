"""Sentences on agreement in number, gender and tense, each with a twin that gets one word wrong.

Documents are made of the right sentences only; the pairs are the minimal-pair task, in the manner
of BLiMP (Warstadt et al. 2020).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from world import lexicon
from world.lexicon import Verb
from world.town import Item, Person, World


class Pair(NamedTuple):
    """A right sentence and its wrong twin."""

    good: str
    bad: str


def _fill(frame: str, right: str, wrong: str) -> Pair:
    """Both words in the one gap `{}` of the frame, with a capital at its beginning."""
    good, bad = frame.format(right), frame.format(wrong)
    return Pair(good[0].upper() + good[1:], bad[0].upper() + bad[1:])


def _draw(rng: random.Random, world: World) -> tuple[Person, Item, str, Verb]:
    return (
        rng.choice(world.people),
        rng.choice(world.items),
        rng.choice(world.places),
        rng.choice(lexicon.HANDLING),
    )


def _be_state(rng: random.Random, world: World) -> Pair:
    person, item, place, _ = _draw(rng, world)
    right, wrong, noun = ("are", "is", item.many) if rng.random() < 0.5 else ("is", "are", item.one)
    where = rng.choice(("", f" in the {place}"))
    state = rng.choice(lexicon.STATES)
    return _fill(f"the {noun} of {person.full}{where} {{}} {state}.", right, wrong)


def _attractor(rng: random.Random, world: World) -> Pair:
    """The verb agrees with the first noun, not with the one beside it."""
    first, second = rng.sample(world.items, 2)
    side = rng.choice(("beside", "behind", "near", "under", "above"))
    state = rng.choice(lexicon.STATES)
    now = rng.random() < 0.5
    singular, many = ("is", "are") if now else ("was", "were")
    if rng.random() < 0.5:
        return _fill(f"the {first.many} {side} the {second.one} {{}} {state}.", many, singular)
    return _fill(f"the {first.one} {side} the {second.many} {{}} {state}.", singular, many)


def _habit(rng: random.Random, world: World) -> Pair:
    person, item, place, verb = _draw(rng, world)
    when = rng.choice(("every day", "every morning", "each week", "on Sundays", "as a rule"))
    if rng.random() < 0.5:
        frame = f"{when} {person.full} {{}} the {item.one} in the {place}."
        return _fill(frame, verb.third, verb.base)
    other = rng.choice([someone for someone in world.people if someone != person])
    frame = f"{when} {person.full} and {other.full} {{}} the {item.one} in the {place}."
    return _fill(frame, verb.base, verb.third)


def _past(rng: random.Random, world: World) -> Pair:
    person, item, place, verb = _draw(rng, world)
    when = rng.choice(("yesterday", "last week", "last year", "a month ago", "two days ago"))
    frame = f"{when} {person.full} {{}} the {item.one} in the {place}."
    return _fill(frame, verb.past, verb.third)


def _future(rng: random.Random, world: World) -> Pair:
    person, item, place, verb = _draw(rng, world)
    when = rng.choice(("tomorrow", "next week", "next year", "in a month", "soon"))
    frame = f"{when} {person.full} will {{}} the {item.one} in the {place}."
    return _fill(frame, verb.base, rng.choice((verb.past, verb.third, verb.gerund)))


def _perfect(rng: random.Random, world: World) -> Pair:
    person, item, _, verb = _draw(rng, world)
    wrong = verb.base if verb.base != verb.participle else verb.third
    return _fill(f"{person.full} has already {{}} the {item.one}.", verb.participle, wrong)


def _progressive(rng: random.Random, world: World) -> Pair:
    person, item, place, verb = _draw(rng, world)
    frame = f"at the moment {person.full} is {{}} the {item.one} in the {place}."
    return _fill(frame, verb.gerund, rng.choice((verb.base, verb.third)))


def _negation(rng: random.Random, world: World) -> Pair:
    person, item, _, verb = _draw(rng, world)
    auxiliary = rng.choice(("does not", "did not", "cannot", "must not"))
    wrong = rng.choice((verb.third, verb.gerund))
    return _fill(f"{person.full} {auxiliary} {{}} the {item.one}.", verb.base, wrong)


def _determiner(rng: random.Random, world: World) -> Pair:
    person, item, _, verb = _draw(rng, world)
    one, many = rng.choice((("this", "these"), ("that", "those")))
    if rng.random() < 0.5:
        return _fill(f"{person.full} {verb.past} {{}} {item.many}.", many, one)
    return _fill(f"{person.full} {verb.past} {{}} {item.one}.", one, many)


def _number(rng: random.Random, world: World) -> Pair:
    person, item, place, verb = _draw(rng, world)
    right, wrong = lexicon.plural(item.noun), item.noun
    amount = rng.choice((*lexicon.NUMBERS, "several", "many", "a few"))
    if rng.random() < 0.3:
        right, wrong, amount = wrong, right, rng.choice(("one", "another"))
    frame = f"{person.full} {verb.past} {amount} {item.adjective} {{}} in the {place}."
    return _fill(frame, right, wrong)


def _there(rng: random.Random, world: World) -> Pair:
    person, item, place, _ = _draw(rng, world)
    if rng.random() < 0.5:
        amount = rng.choice(lexicon.NUMBERS)
        frame = f"there {{}} {amount} {item.many} in the {place} of {person.full}."
        return _fill(frame, "were", "was")
    return _fill(f"there {{}} {item.a} in the {place} of {person.full}.", "was", "were")


def _reflexive(rng: random.Random, world: World) -> Pair:
    person, item, _, _ = _draw(rng, world)
    doing = rng.choice(("bought", "found", "made", "chose", "built"))
    wrong = "himself" if person.female else "herself"
    return _fill(f"{person.full} {doing} {{}} {item.a}.", person.herself, wrong)


def _possessive(rng: random.Random, world: World) -> Pair:
    person, item, place, verb = _draw(rng, world)
    wrong = "his" if person.female else "her"
    frame = f"{person.full} {verb.past} {{}} {item.one} in the {place}."
    return _fill(frame, person.her, wrong)


def _article(rng: random.Random, world: World) -> Pair:
    person, item, place, verb = _draw(rng, world)
    right = lexicon.article(item.adjective)
    wrong = "a" if right == "an" else "an"
    return _fill(f"{person.full} {verb.past} {{}} {item.one} near the {place}.", right, wrong)


def _question(rng: random.Random, world: World) -> Pair:
    person, item, _, verb = _draw(rng, world)
    auxiliary = rng.choice(("did", "does", "will", "can"))
    return _fill(f"{auxiliary} {person.full} {{}} the {item.one}?", verb.base, verb.gerund)


KINDS: dict[str, Callable[[random.Random, World], Pair]] = {
    "be_agreement": _be_state,
    "attractor_agreement": _attractor,
    "habit_agreement": _habit,
    "past_tense": _past,
    "future_tense": _future,
    "perfect_participle": _perfect,
    "progressive": _progressive,
    "negation": _negation,
    "determiner_number": _determiner,
    "noun_number": _number,
    "there_agreement": _there,
    "reflexive_gender": _reflexive,
    "possessive_gender": _possessive,
    "article": _article,
    "question_verb": _question,
}


def grammar_scene(rng: random.Random, world: World) -> str:
    """A document of unconnected news from the town, in right sentences."""
    kinds = rng.choices(tuple(KINDS), k=rng.randint(5, 9))
    sentences = [KINDS[kind](rng, world).good for kind in kinds]
    return f"News from {world.town}.\n" + " ".join(sentences)
