"""Working with one built lm-eval task: documents, few-shot draws, requests, filters, results.

Uses what lm-eval 0.4.13 does not promise to keep (`sampler`, `fewshot_cfg`, `_instances`, `env`).
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import metadata
from typing import Any

import datasets
import numpy as np
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.registry import AGGREGATION_REGISTRY
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.utils import env, handle_non_serializable, hash_string

from evalkit.errors import DataError

ChatTemplate = Callable[..., str]


@dataclass(frozen=True)
class Seeds:
    """Random seeds of a suite's seed; seed 0 gives the defaults of lm-eval itself."""

    python: int
    numpy: int
    fewshot: int


def lm_eval_version() -> str:
    """The version of lm-eval, which defines the prompts, filters and metrics of its tasks."""
    return metadata.version("lm_eval")


def seeds(seed: int) -> Seeds:
    """The seeds of `seed`: lm-eval's defaults (0, 1234, 1234) plus `seed`."""
    other = DEFAULT_OTHER_SEED + seed
    return Seeds(DEFAULT_RANDOM_SEED + seed, other, other)


@contextmanager
def settled(seed: int) -> Iterator[None]:
    """Run the task's code with seeded random numbers, without log lines and progress bars.

    Templates are compiled once in the block: lm-eval compiles them anew for every use, nine
    tenths of the time it takes to build few-shot prompts. They run in jinja's sandbox, which
    keeps a task's template from reaching Python through the attributes of its values.
    """
    chosen = seeds(seed)
    python, state = random.getstate(), np.random.get_state()
    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, datasets.are_progress_bars_disabled()
    compiled = env.from_string
    env.from_string = lru_cache(maxsize=1024)(_sandbox().from_string)
    random.seed(chosen.python)
    np.random.seed(chosen.numpy % 2**32)
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        env.from_string = compiled
        random.setstate(python)
        np.random.set_state(state)
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


@cache
def _sandbox() -> SandboxedEnvironment:
    """lm-eval's environment of templates, sandboxed."""
    sandbox = SandboxedEnvironment(
        undefined=env.undefined, keep_trailing_newline=env.keep_trailing_newline
    )
    sandbox.filters.update(env.filters)
    return sandbox


def set_shots(task: Any, shots: int | None, seed: int) -> int:
    """Set the number of few-shot examples as lm-eval does and seed their draw; the number used.

    None means the task's own number, else 0. A task whose YAML says 0 keeps 0.
    """
    own = task.get_config("num_fewshot")
    if shots is None or own == 0:
        shots = own or 0
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=seeds(seed).fewshot)
    return int(shots)


def evaluated_split(task: Any) -> str:
    """Name of the split the items come from."""
    config = task.config
    split = config.test_split if task.has_test_docs() else config.validation_split
    return str(split or "test")


def fewshot_split(task: Any) -> str | None:
    """Name of the split few-shot examples are drawn from; None if the task lists its own."""
    config, fewshot = task.config, getattr(task, "fewshot_cfg", None)
    if fewshot is not None and fewshot.split:
        return str(fewshot.split)
    if fewshot is not None and fewshot.samples is not None:
        return None
    if task.has_training_docs():
        return str(config.training_split or "train")
    return str(config.validation_split or "validation") if task.has_validation_docs() else "test"


def documents(task: Any, limit: int | None, seed: int) -> list[dict[str, Any]]:
    """The first `limit` documents of the evaluated split, after the task's own processing.

    Some tasks shuffle choices while processing, so every call is seeded the same way.
    """
    with settled(seed):
        return [doc for _, doc in task.doc_iterator(rank=0, limit=limit, world_size=1)]


def doc_hash(doc: Mapping[str, Any]) -> str:
    """SHA-256 of a document's JSON, exactly as lm-eval logs it in its samples."""
    return str(
        hash_string(json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False))
    )


def prompt_hash(prompt: str) -> str:
    """SHA-256 of a prompt, exactly as lm-eval logs it in its samples."""
    return str(hash_string(prompt))


def keep_item_out(task: Any, seed: int) -> ItemKeptOut | None:
    """Make the task never draw the evaluated item as its own few-shot example.

    lm-eval sees to it in most cases, but not where examples come from the evaluated split by
    default (lambada_openai). None where the two splits differ and nothing is to be done.
    """
    if fewshot_split(task) != evaluated_split(task) or not hasattr(task, "sampler"):
        return None
    if not isinstance(task.sampler, ItemKeptOut):
        task.sampler = ItemKeptOut(task.sampler)
    task.sampler.start(seed)
    return task.sampler


class ItemKeptOut:
    """A few-shot sampler that draws as the one inside does, and replaces the item itself.

    All other draws stay what lm-eval would have drawn, so scores stay identical to lm-eval's
    except for items that would have seen their own answer.
    """

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self._random = random.Random()
        self.item: Mapping[str, Any] | None = None
        self.replaced = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def start(self, seed: int) -> None:
        """Begin a pass over the items."""
        self._random = random.Random(seed)
        self.item, self.replaced = None, 0

    def sample(self, n: int, eval_doc: Any = None, **arguments: Any) -> list[Any]:
        """`n` examples without the item."""
        drawn = list(self._sampler.sample(n=n, eval_doc=eval_doc, **arguments))
        for place, example in enumerate(drawn):
            if example == self.item:
                pool = self._sampler.fewshot_docs()
                others = [doc for doc in pool if doc != self.item and doc not in drawn]
                if not others:
                    raise DataError(f"{n} shots asked, but only {n - 1} other examples are there")
                drawn[place] = self._random.choice(others)
                self.replaced += 1
        return drawn


def make_requests(
    task: Any,
    doc: Mapping[str, Any],
    place: tuple[str, int],
    shots: int,
    system: str | None,
    chat_template: ChatTemplate | None,
    multiturn: bool,
) -> list[Instance]:
    """The requests of one document, as lm-eval's `build_all_requests` makes them.

    `place` is the task's name and the document's number.
    """
    chat = chat_template is not None
    context = task.fewshot_context(
        doc,
        num_fewshot=shots,
        system_instruction=system,
        apply_chat_template=chat,
        fewshot_as_multiturn=multiturn,
        chat_template=chat_template,
        gen_prefix=task.doc_to_prefix(doc),
    )
    made = task.construct_requests(
        doc=doc,
        ctx=context,
        metadata=(*place, task.config.repeats),
        apply_chat_template=chat,
        chat_template=chat_template,
    )
    return made if isinstance(made, list) else [made]


def choices_and_gold(task: Any, doc: Mapping[str, Any]) -> tuple[list[str], int | None]:
    """The choices of a multiple-choice document and the index of the right one.

    No choices for other kinds of task; no index where several choices are right.
    """
    if task.OUTPUT_TYPE != "multiple_choice" or task.config.doc_to_choice is None:
        return [], None
    choices = [str(choice) for choice in task.doc_to_choice(doc)]
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(gold, str):
        gold = choices.index(gold) if gold in choices else None
    if not isinstance(gold, int) or not 0 <= gold < len(choices):
        return choices, None
    return choices, int(gold)


def apply_filters(task: Any, instances: list[Instance]) -> list[str]:
    """Run the task's filters over answered instances; the names of the filters, in order."""
    task._instances = instances
    task.apply_filters()
    task._instances = None
    return list(instances[0].filtered_resps)


def aggregation(task: Any, metric: str) -> tuple[str, Callable[[Sequence[Any]], float]]:
    """Name and function lm-eval aggregates `metric` with (the mean where it names none).

    Functions of the task's own code are named "own.FUNCTION".
    """
    function: Callable[[Sequence[Any]], float] = task.aggregation().get(metric, mean)
    for name, known in AGGREGATION_REGISTRY.items():
        if known is function:
            return str(name), function
    return f"own.{getattr(function, '__name__', 'function')}", function


def higher_is_better(task: Any, metric: str) -> bool | None:
    """Whether more of `metric` is better; None where the task does not say."""
    answer = task.higher_is_better().get(metric)
    return None if answer is None else bool(answer)


def registered_aggregation(name: str) -> Callable[[Sequence[Any]], float] | None:
    """lm-eval's aggregation function `name` ("f1", "matthews_corrcoef", "bleu" …), or None."""
    function: Callable[[Sequence[Any]], float] | None = AGGREGATION_REGISTRY.get(name, None)
    return function
