"""Evaluation items from the town: four tasks, each a list of rows for one JSONL file."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

from world import grammar, market, moves, stories
from world.corpus import SEPARATOR
from world.town import Split, World, make_world

Row = dict[str, Any]


def where_row(rng: random.Random, world: World) -> Row:
    """Where is a belonging now? Four places, its earlier ones among them."""
    story = moves.tell_moves(rng, world, rng.randint(2, 3), rng.randint(1, 3))
    item = rng.choice(story.items)
    answer = story.where(item)
    mentioned = [place for other in story.items for place in story.places[other]]
    tempting = list(dict.fromkeys([*story.places[item], *mentioned, *world.places]))
    choices = [answer, *[place for place in tempting if place != answer][:3]]
    rng.shuffle(choices)
    question = f"{moves.where_question(rng, item)} {moves.where_answer(item)}"
    return {
        "context": f"{story.text}\n{question}",
        "choices": choices,
        "label": choices.index(answer),
    }


def last_word_row(rng: random.Random, world: World) -> Row:
    """The last word of a story."""
    story = stories.story_scene(rng, world)
    return {"context": story.beginning, "last_word": story.last_word}


def sums_row(rng: random.Random, world: World) -> Row:
    """A sum of prices, a difference of hours or a count, to be written out."""
    kind = rng.choice((market.prices, market.opening_hours, market.counting))
    scene = kind(rng, world)
    problem = scene.problems[0]
    return {
        "context": f"{scene.facts}\n{problem.question} {problem.opening}",
        "answer": problem.answer,
        "kind": kind.__name__,
    }


def grammar_rows(split: Split, number: int, seed: int) -> Iterator[Row]:
    """Minimal pairs, all kinds in turn; the right sentence is the first or the second by lot."""
    kinds = cycle(grammar.KINDS.items())
    for index, (kind, write) in enumerate(islice(kinds, number)):
        rng = random.Random(f"demo_grammar {split} {index} {seed}")
        pair = write(rng, make_world(split, index, seed))
        label = rng.randint(0, 1)
        yield {
            "sentence_good": pair.good,
            "sentence_bad": pair.bad,
            "choices": [pair.good, pair.bad] if label == 0 else [pair.bad, pair.good],
            "label": label,
            "kind": kind,
        }


WRITERS: dict[str, Callable[[random.Random, World], Row]] = {
    "demo_where": where_row,
    "demo_last_word": last_word_row,
    "demo_sums": sums_row,
}


def task_rows(task: str, number: int, split: Split = "test", seed: int = 1) -> list[Row]:
    """The rows of a task; each comes from a town of its own.

    Seed 1 keeps these towns apart from those of the test text, which has seed 0.
    """
    if task == "demo_grammar":
        return list(grammar_rows(split, number, seed))
    return [
        WRITERS[task](
            random.Random(f"{task} {split} {index} {seed}"), make_world(split, index, seed)
        )
        for index in range(number)
    ]


_COMMON = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {task}.jsonl
test_split: test
output_type: {kind}
"""
_ACCURACY = """\
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
YAML = {
    "demo_where": _COMMON.format(task="demo_where", kind="multiple_choice")
    + 'doc_to_text: "{{context}}"\ndoc_to_choice: choices\ndoc_to_target: label\n'
    + _ACCURACY,
    "demo_last_word": _COMMON.format(task="demo_last_word", kind="loglikelihood")
    + 'doc_to_text: "{{context}}"\ndoc_to_target: "{{\' \' + last_word}}"\n'
    + 'target_delimiter: ""\n'
    + _ACCURACY,
    "demo_grammar": _COMMON.format(task="demo_grammar", kind="multiple_choice")
    + 'doc_to_text: ""\ndoc_to_choice: choices\ndoc_to_target: label\ntarget_delimiter: ""\n'
    + _ACCURACY,
    "demo_sums": _COMMON.format(task="demo_sums", kind="generate_until")
    + 'doc_to_text: "{{context}}"\ndoc_to_target: answer\n'
    + "generation_kwargs:\n"
    + f'  until: ["\\n", ".", " coins", " hours", "{SEPARATOR}"]\n'
    + "  max_gen_toks: 16\n  do_sample: false\n"
    + """\
filter_list:
  - name: strict
    filter:
      - function: regex
        regex_pattern: "(\\\\d+ [+-] \\\\d+ = \\\\d+)"
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
""",
}
"""One lm-eval task configuration each; the data file is named relative to the YAML."""
