"""Scenes with numbers: prices, change, opening hours, counting.

Answers spell out the sum ("pays 7 + 5 = 12 coins"), so that a small model can look up the two
numbers first and add them then.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from world.town import Item, Person, Shop, World


@dataclass(frozen=True)
class Problem:
    """A question with a number as its answer, e.g. `"Tom Hart pays"`, `"7 + 5 = 12"`, `"coins."`"""

    question: str
    opening: str
    answer: str
    closing: str

    @property
    def text(self) -> str:
        """Question and answer on one line."""
        return f"{self.question} {self.opening} {self.answer} {self.closing}"


@dataclass(frozen=True)
class NumberScene:
    """Facts and the problems they allow."""

    facts: str
    problems: tuple[Problem, ...]

    @property
    def text(self) -> str:
        """The scene as a document."""
        return "\n".join((self.facts, *(problem.text for problem in self.problems)))


def _purchase(rng: random.Random, buyer: Person, goods: list[tuple[Item, int]]) -> str:
    (first, a), (second, b) = goods
    return rng.choice((
        f"{buyer.full} buys the {first.one} for {a} coins and the {second.one} for {b} coins.",
        f"{buyer.full} wants the {first.one} for {a} coins and the {second.one} for {b} coins.",
        f"For {buyer.first} there is the {first.one} at {a} coins and the {second.one}"
        f" at {b} coins.",
        f"The {first.one} goes for {a} coins and the {second.one} goes for {b} coins.",
        f"The {first.one} sells for {a} coins, the {second.one} sells for {b} coins.",
    ))  # fmt: skip


def prices(rng: random.Random, world: World) -> NumberScene:
    """A market day and somebody who buys two things; the first problem is a sum."""
    first, second = rng.sample(world.items, 2)
    a, b = rng.randint(2, 20), rng.randint(2, 20)
    shop, buyer = rng.choice(world.shops), rng.choice(world.people)
    facts = [
        f"It is market day at the {shop.name} in {world.town}.",
        _purchase(rng, buyer, [(first, a), (second, b)]),
    ]
    goods = f"the {first.one} and the {second.one}"
    problems = [
        Problem(
            f"How much does {buyer.full} pay for {goods}?",
            f"{buyer.full} pays",
            f"{a} + {b} = {a + b}",
            f"coins for {goods}.",
        )
    ]
    if rng.random() < 0.5:
        item, price = rng.choice(((first, a), (second, b)))
        question = f"What is the price of the {item.one}?"
        problems.append(Problem(question, f"The {item.one} costs", str(price), "coins."))
    return NumberScene(" ".join(facts), tuple(problems))


def _hours(rng: random.Random, shop: Shop, keeper: Person) -> str:
    return rng.choice((
        f"The {shop.name} opens at {shop.opens} and closes at {shop.closes}.",
        f"{keeper.full} opens the {shop.name} at {shop.opens} and closes it at {shop.closes}.",
        f"The {shop.name} is open from {shop.opens} to {shop.closes}.",
        f"From {shop.opens} to {shop.closes} one finds {keeper.full} in the {shop.name}.",
    ))  # fmt: skip


def _open_for(shop: Shop) -> Problem:
    return Problem(
        f"For how long is the {shop.name} open?",
        f"The {shop.name} is open for",
        f"{shop.closes} - {shop.opens} = {shop.closes - shop.opens}",
        "hours a day.",
    )


def opening_hours(rng: random.Random, world: World) -> NumberScene:
    """A shop and its hours; the first problem is a difference."""
    shop, keeper = rng.choice(world.shops), rng.choice(world.people)
    facts = [
        f"{keeper.full} lives in {world.town}.",
        _hours(rng, shop, keeper),
    ]
    problems = [_open_for(shop)]
    problems.append(rng.choice((
        Problem(f"When does the {shop.name} open?", f"The {shop.name} opens at",
                str(shop.opens), "in the morning."),
        Problem(f"When does the {shop.name} close?", f"The {shop.name} closes at",
                str(shop.closes), "each day."),
    )))  # fmt: skip
    return NumberScene(" ".join(facts), tuple(problems))


def _count(rng: random.Random, person: Person, other: Person, item: Item) -> tuple[str, Problem]:
    have, change = rng.randint(8, 20), rng.randint(2, 7)
    gains = rng.random() < 0.5
    answer = f"{have} + {change} = {have + change}" if gains else f"{have} - {change} = " + str(
        have - change)  # fmt: skip
    verb = rng.choice(("got", "received", "bought") if gains else ("lost", "sold", "lent"))
    link = "from" if gains else "to"
    tail = "" if verb == "lost" else f" {link} {other.full}"
    fact = f"{person.full} had {have} {item.many} and {verb} {change}{tail}."
    problem = Problem(
        f"How many {item.many} does {person.full} have now?",
        f"Now {person.full} has",
        answer,
        f"{item.many}.",
    )
    return fact, problem


def counting(rng: random.Random, world: World) -> NumberScene:
    """Somebody who gains or loses a few things of a kind."""
    person, other = rng.sample(world.people, 2)
    fact, problem = _count(rng, person, other, rng.choice(world.items))
    return NumberScene(f"{other.full} lives in {world.town}. {fact}", (problem,))


def number_scene(rng: random.Random, world: World) -> NumberScene:
    """One of the three kinds: half of them prices."""
    kind = rng.random()
    if kind < 0.5:
        return prices(rng, world)
    return opening_hours(rng, world) if kind < 0.75 else counting(rng, world)
