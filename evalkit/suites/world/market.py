"""Scenes with numbers: prices, change, opening hours, counting.

Answers spell out the sum ("pays 7 + 5 = 12 coins"), so that a small model can look up the two
numbers first and add them then.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from evalkit.suites.world.town import Item, Person, Shop, World


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


def _price(rng: random.Random, item: Item, price: int) -> str:
    return rng.choice((
        f"The {item.one} costs {price} coins.",
        f"{item.a.capitalize()} costs {price} coins.",
        f"The price of the {item.one} is {price} coins.",
        f"They ask {price} coins for the {item.one}.",
        f"For {price} coins one can have the {item.one}.",
        f"There is {item.a} for {price} coins.",
    ))  # fmt: skip


def _purchase(rng: random.Random, buyer: Person, first: Item, second: Item) -> str:
    return rng.choice((
        f"{buyer.full} buys the {first.one} and the {second.one}.",
        f"{buyer.full} wants the {first.one} and the {second.one}.",
        f"{buyer.full} chooses the {first.one} and then the {second.one}.",
        f"Both the {first.one} and the {second.one} are bought by {buyer.full}.",
    ))  # fmt: skip


def _pays(buyer: Person, first: Item, second: Item, a: int, b: int) -> Problem:
    goods = f"the {first.one} and the {second.one}"
    return Problem(
        f"How much does {buyer.full} pay for {goods}?",
        f"{buyer.full} pays",
        f"{a} + {b} = {a + b}",
        f"coins for {goods}.",
    )


def _price_question(item: Item, price: int) -> Problem:
    return Problem(
        f"What is the price of the {item.one}?", f"The {item.one} costs", str(price), "coins."
    )


def prices(rng: random.Random, world: World) -> NumberScene:
    """A market day: priced goods and buyers of two of them; the first problem is a sum."""
    items = rng.sample(world.items, rng.randint(2, 4))
    cost = {item: rng.randint(2, 20) for item in items}
    shop = rng.choice(world.shops)
    facts = [f"It is market day at the {shop.name} in {world.town}."]
    facts += [_price(rng, item, cost[item]) for item in items]
    problems = []
    for buyer in rng.sample(world.people, rng.randint(1, 3)):
        first, second = rng.sample(items, 2)
        facts.append(_purchase(rng, buyer, first, second))
        problems.append(_pays(buyer, first, second, cost[first], cost[second]))
    asked = rng.choice(items)
    if rng.random() < 0.5:
        problems.append(_price_question(asked, cost[asked]))
    return NumberScene(" ".join(facts), tuple(problems))


def _hours(rng: random.Random, shop: Shop, keeper: Person) -> str:
    return rng.choice((
        f"The {shop.name} opens at {shop.opens} and closes at {shop.closes}.",
        f"{keeper.full} opens the {shop.name} at {shop.opens} and closes it at {shop.closes}.",
        f"The {shop.name} is open from {shop.opens} to {shop.closes}.",
        f"From {shop.opens} to {shop.closes} one finds {keeper.full} in the {shop.name}.",
        f"The {shop.name} closes at {shop.closes} and opens at {shop.opens}.",
    ))  # fmt: skip


def _open_for(shop: Shop) -> Problem:
    return Problem(
        f"For how long is the {shop.name} open?",
        f"The {shop.name} is open for",
        f"{shop.closes} - {shop.opens} = {shop.closes - shop.opens}",
        "hours a day.",
    )


def opening_hours(rng: random.Random, world: World) -> NumberScene:
    """Shops and their hours; the first problem is a difference."""
    shops = rng.sample(world.shops, rng.randint(1, 3))
    keepers = rng.sample(world.people, len(shops))
    facts = [_hours(rng, shop, keeper) for shop, keeper in zip(shops, keepers, strict=True)]
    problems = [_open_for(shop) for shop in rng.sample(shops, min(2, len(shops)))]
    shop = rng.choice(shops)
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
    """People who gain or lose a few things of a kind."""
    count = rng.randint(1, 3)
    people = rng.sample(world.people, 2 * count)
    pairs = [
        _count(rng, people[2 * i], people[2 * i + 1], item)
        for i, item in enumerate(rng.sample(world.items, count))
    ]
    problems = [problem for _, problem in pairs]
    rng.shuffle(problems)
    return NumberScene(" ".join(fact for fact, _ in pairs), tuple(problems))


def number_scene(rng: random.Random, world: World) -> NumberScene:
    """One of the three kinds: half of them prices."""
    kind = rng.random()
    if kind < 0.5:
        return prices(rng, world)
    return opening_hours(rng, world) if kind < 0.75 else counting(rng, world)
