from __future__ import annotations

import random
import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from world import corpus, grammar, lexicon, market, moves, stories, tasks
from world.ngram import KneserNeyTrigram
from world.town import make_world, split_of

SPLITS = ("train", "calibration", "test")


def names_of(split: str, towns: int) -> dict[str, set[str]]:
    worlds = [make_world(split, index) for index in range(towns)]
    return {
        "people": {person.full for world in worlds for person in world.people},
        "items": {item.one for world in worlds for item in world.items},
        "streets": {shop.street for world in worlds for shop in world.shops},
        "towns": {world.town for world in worlds},
    }


def test_the_same_seed_makes_the_same_documents_and_another_seed_others() -> None:
    assert corpus.head("train", 30, seed=4) == corpus.head("train", 30, seed=4)
    assert corpus.head("train", 30, seed=4) != corpus.head("train", 30, seed=5)


def test_no_name_of_one_split_occurs_in_another() -> None:
    names = {split: names_of(split, 300) for split in SPLITS}
    for kind in ("people", "items", "streets", "towns"):
        sets = [names[split][kind] for split in SPLITS]
        assert all(sets)
        assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]


def test_every_word_of_test_names_occurs_in_training_names() -> None:
    for firsts, seconds in (
        (lexicon.FEMALE + lexicon.MALE, lexicon.SURNAMES),
        (lexicon.ADJECTIVES, lexicon.NOUNS),
        (lexicon.STREETS, lexicon.STREET_KINDS),
        (lexicon.TOWN_KINDS, lexicon.TOWNS),
    ):
        pairs = [(a, b) for a in firsts for b in seconds if split_of(a, b) == "train"]
        assert {a for a, _ in pairs} == set(firsts)
        assert {b for _, b in pairs} == set(seconds)


def test_word_lists_hold_no_word_twice() -> None:
    lists = (
        lexicon.FEMALE + lexicon.MALE, lexicon.SURNAMES, lexicon.ADJECTIVES, lexicon.NOUNS,
        lexicon.PLACES, lexicon.STREETS, lexicon.TRADES, lexicon.SHOPS,
    )  # fmt: skip
    for words in lists:
        assert len(words) == len(set(words))


@pytest.mark.slow
def test_hardly_any_test_sentence_occurs_in_training_text() -> None:
    seen = {s for text in corpus.head("train", 8000) for s in corpus.sentences(text)}
    test = [s for text in corpus.head("test", 300) for s in corpus.sentences(text)]
    assert sum(sentence in seen for sentence in test) / len(test) < 0.05


def test_documents_are_short_and_plain_ascii() -> None:
    texts = corpus.head("test", 500)
    lengths = sorted(len(text.split()) for text in texts)
    assert lengths[0] >= 15
    assert lengths[-1] < 450
    assert all(text.isascii() and corpus.SEPARATOR not in text for text in texts)


def last_place(text: str, item: str) -> str:
    """The place in the last sentence on the item: read off the text, not off the story."""
    mention = [s for s in corpus.sentences(text) if item in s][-1]
    places = re.findall("|".join(rf"\b{place}\b" for place in lexicon.PLACES), mention)
    return places[-1]


@pytest.mark.parametrize("index", range(40))
def test_where_answers_are_what_the_story_says(index: int) -> None:
    rng, world = random.Random(index), make_world("test", index)
    story = moves.tell_moves(rng, world, 3, 4)
    for item in story.items:
        assert last_place(story.text, item.one) == story.where(item)


def test_sums_are_right_and_made_of_numbers_in_the_text() -> None:
    for index in range(200):
        rng, world = random.Random(index), make_world("test", index)
        scene = market.number_scene(rng, world)
        for problem in scene.problems:
            terms = re.fullmatch(r"(\d+) ([+-]) (\d+) = (\d+)", problem.answer)
            if terms is None:
                assert re.search(rf"\b{problem.answer}\b", scene.facts)
                continue
            a, sign, b, result = terms.groups()
            assert int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b))
            assert re.search(rf"\b{a}\b", scene.facts) and re.search(rf"\b{b}\b", scene.facts)


def test_last_words_are_named_in_the_story_before() -> None:
    for index in range(200):
        story = stories.story_scene(random.Random(index), make_world("test", index))
        assert re.search(rf"\b{story.last_word}\b", story.beginning)


@pytest.mark.parametrize("kind", list(grammar.KINDS))
def test_minimal_pairs_differ_in_one_word(kind: str) -> None:
    for index in range(50):
        pair = grammar.KINDS[kind](random.Random(index), make_world("test", index))
        good, bad = pair.good.split(), pair.bad.split()
        assert len(good) == len(bad)
        assert sum(a != b for a, b in zip(good, bad, strict=True)) == 1
        assert pair.good[0].isupper()


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (lexicon.plural("knife"), "knifes"),
        (lexicon.plural("brush"), "brushs"),
        (lexicon.plural("toy"), "toies"),
        (lexicon.plural("box"), "boxs"),
    ],
)
def test_plurals(good: str, bad: str) -> None:
    assert good in ("knives", "brushes", "toys", "boxes")
    assert good != bad


def test_regular_verbs_are_inflected_rightly() -> None:
    verbs = {verb.base: verb for verb in lexicon.HANDLING}
    assert verbs["carry"] == ("carry", "carries", "carried", "carried", "carrying")
    assert verbs["examine"] == ("examine", "examines", "examined", "examined", "examining")
    assert verbs["polish"] == ("polish", "polishes", "polished", "polished", "polishing")


def test_where_rows_have_four_different_choices_and_no_favourite_position() -> None:
    rows = tasks.task_rows("demo_where", 300)
    assert all(len(set(row["choices"])) == 4 for row in rows)
    counts = np.bincount([row["label"] for row in rows], minlength=4)
    assert counts.min() > 40


def test_where_cannot_be_solved_by_the_last_place_named() -> None:
    rows = tasks.task_rows("demo_where", 300)
    named_last = 0
    for row in rows:
        story = row["context"].split("\n")[0]
        positions = [story.rfind(f" {choice}") for choice in row["choices"]]
        named_last += int(np.argmax(positions)) == row["label"]
    assert named_last / len(rows) < 0.6


def test_without_overlap_drops_documents_that_share_a_run_of_words() -> None:
    held_out = ["a b c d e f g h i j k l m n"]
    stream = ["x b c d e f g h i j k l m n y", "b c d e f g h i j k l m", "quite another text"]
    assert list(corpus.without_overlap(stream, held_out)) == stream[1:]


def test_calibration_documents_differ_from_test_documents() -> None:
    test = corpus.head("test", 200)
    clean = list(islice(corpus.without_overlap(corpus.documents("calibration"), test), 200))
    taboo = set().union(*(corpus.word_ngrams(text) for text in test))
    assert all(taboo.isdisjoint(corpus.word_ngrams(text)) for text in clean)


def test_kneser_ney_probabilities_sum_to_one() -> None:
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 7, 400) * generator.integers(0, 2, 400)
    model = KneserNeyTrigram(ids, vocabulary=9)
    for context in ([3, 4], [0, 2], [8, 8], [5, 0]):
        total = sum(
            np.exp(-model.negative_log_likelihoods(np.array([*context, token]))[-1])
            for token in range(9)
        )
        assert total == pytest.approx(1.0, abs=1e-9)


def kneser_ney_by_definition(ids: list[int], vocabulary: int, ngram: tuple[int, ...]) -> float:
    """Probability of the last of `ngram` after the others, written from the formulae."""
    trigrams: Counter[tuple[int, ...]] = Counter()
    history = (0, 0)
    for token in ids:
        trigrams[(*history, token)] += 1
        history = (0, 0) if token == 0 else (history[1], token)
    counts = {3: trigrams}
    for n in (2, 1):
        counts[n] = Counter(gram[1:] for gram in counts[n + 1])
    probability = 1 / vocabulary
    for n in (1, 2, 3):
        gram = ngram[3 - n :]
        n1, n2, n3, n4 = (max(1, list(counts[n].values()).count(c)) for c in (1, 2, 3, 4))
        y = n1 / (n1 + 2 * n2)
        raw = (0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        discounts = [min(max(value, 0.0), limit) for limit, value in enumerate(raw)]
        followers = {g: c for g, c in counts[n].items() if g[:-1] == gram[:-1]}
        if not followers:
            continue
        total = sum(followers.values())
        kept = max(0.0, followers.get(gram, 0) - discounts[min(followers.get(gram, 0), 3)])
        removed = sum(discounts[min(c, 3)] for c in followers.values())
        probability = kept / total + removed / total * probability
    return probability


def test_kneser_ney_agrees_with_its_definition() -> None:
    generator = np.random.default_rng(1)
    ids = np.minimum(generator.geometric(0.35, 600) - 1, 7)
    model = KneserNeyTrigram(ids, vocabulary=9)
    for ngram in ((1, 2, 3), (1, 1, 1), (6, 7, 2), (7, 7, 7), (3, 1, 0), (2, 5, 8)):
        found = float(np.exp(-model.negative_log_likelihoods(np.array(ngram))[-1]))
        assert found == pytest.approx(kneser_ney_by_definition(ids.tolist(), 9, ngram), rel=1e-9)
