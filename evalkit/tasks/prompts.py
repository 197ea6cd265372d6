"""Prompts of a task, built once by lm-eval's own code and then fixed for every variant."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from evalkit.errors import DataError, EvalkitError, UsageError
from evalkit.records import content_hash
from evalkit.store.task_requests import Request, TaskItem, TaskRequests
from evalkit.tasks import lm_eval_task
from evalkit.tasks.lm_eval_errors import explain
from evalkit.tasks.loading import LoadedTask

# Fields whose equal values mean that items belong together: their errors are not independent.
CLUSTER_FIELDS = ("passage", "paragraph", "context", "article", "story", "premise", "source_id")

ChatTemplate = Callable[..., str]
_THINKING = "enable_thinking"
_THINKS = (
    "the chat template lets the model think first, which counts towards the tokens of its answer: "
    f"--chat-template-args {_THINKING}=false answers at once"
)


def build_requests(
    task: LoadedTask,
    *,
    chat_template: ChatTemplate | None = None,
    system: str | None = None,
    multiturn: bool = True,
) -> TaskRequests:
    """The requests of `task`: its documents, few-shot examples and prompts, fixed.

    With `chat_template` (a ChatFormatter, or an lm-eval model's method) prompts are chats, with
    few-shot examples as turns when `multiturn`; `system` is a system instruction. Raises DataError
    naming the document when the task's code fails on it.
    """
    inner = task.task
    inner.set_fewshot_seed(seed=lm_eval_task.seeds(task.seed).fewshot)
    sampler = lm_eval_task.keep_item_out(inner, task.seed)
    clusters = cluster_numbers(task.documents)
    items = []
    with lm_eval_task.settled(task.seed):
        for number, doc in enumerate(task.documents):
            if sampler is not None:
                sampler.item = doc
            made = _made(task, number, doc, system, chat_template, multiturn)
            items.append(_item(inner, number, doc, made, clusters[number]))
    if not items:
        raise DataError(f"task {task.name!r} has no items in the split {task.split}")
    notes = list(task.notes)
    if getattr(chat_template, "thinks", False) and task.task.OUTPUT_TYPE == "generate_until":
        notes.append(_THINKS)
    if sampler is not None and sampler.replaced:
        notes.append(f"{sampler.replaced} few-shot examples replaced: lm-eval drew the item itself")
    return TaskRequests(
        task=task.name,
        version=task.version,
        output_type=task.output_type,
        split=task.split,
        source=task.source,
        shots=task.shots,
        limit=task.limit,
        repeats=int(inner.config.repeats or 1),
        chat=_chat_hash(chat_template, system, multiturn),
        random_seeds=asdict(lm_eval_task.seeds(task.seed)),
        notes=tuple(notes),
        items=tuple(items),
        lm_eval=lm_eval_task.lm_eval_version(),
    )


class ChatFormatter:
    """A tokenizer's chat template, called as lm-eval calls it.

    A template that takes no system message is given the chat without it, as lm-eval does.
    `arguments` are further ones for the template, KEY=VALUE with JSON or text as value.
    Raises UsageError for a tokenizer without a template.
    """

    def __init__(self, tokenizer: Any, arguments: Sequence[str] = ()) -> None:
        self.arguments = {
            key.strip(): _value(text) for key, _, text in (one.partition("=") for one in arguments)
        }
        self.template = str(getattr(tokenizer, "chat_template", None) or "")
        if not self.template:
            name = getattr(tokenizer, "name_or_path", "") or "of this model"
            raise UsageError(
                f"the tokenizer {name} has no chat template: leave out --apply-chat-template, "
                "or use an instruction-tuned model"
            )
        self._tokenizer = tokenizer

    @property
    def thinks(self) -> bool:
        """Whether the template has a switch for thinking that nobody set: it thinks by default."""
        return _THINKING in self.template and _THINKING not in self.arguments

    def __call__(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The chat as one prompt; without a generation prompt the last message is continued."""
        from jinja2.exceptions import TemplateError

        try:
            return self._render(messages, add_generation_prompt)
        except TemplateError:
            rest = [message for message in messages if message["role"] != "system"]
            return self._render(rest, add_generation_prompt)

    def _render(self, messages: Sequence[Mapping[str, str]], generate: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                list(messages),
                tokenize=False,
                add_generation_prompt=generate,
                continue_final_message=not generate,
                **self.arguments,
            )
        )


def _value(text: str) -> Any:
    """A value of the command line: JSON, in Python's spelling too, else text."""
    word = text.strip()
    try:
        return json.loads(word.lower() if word in ("True", "False") else word)
    except ValueError:
        return word


def cluster_numbers(documents: Sequence[Mapping[str, Any]]) -> list[int]:
    """A number per document; equal where documents share a passage or source.

    The first of CLUSTER_FIELDS that is text and repeats decides; without one, each is alone.
    """
    for name in CLUSTER_FIELDS:
        values = [doc.get(name) for doc in documents]
        if all(isinstance(value, str) for value in values) and len(set(values)) < len(values):
            places = {value: number for number, value in enumerate(dict.fromkeys(values))}
            return [places[value] for value in values]
    return list(range(len(documents)))


def _made(
    task: LoadedTask,
    number: int,
    doc: Mapping[str, Any],
    system: str | None,
    chat_template: ChatTemplate | None,
    multiturn: bool,
) -> list[Any]:
    try:
        return lm_eval_task.make_requests(
            task.task,
            doc,
            (task.name, number),
            task.shots,
            system,
            chat_template,
            multiturn and chat_template is not None,
        )
    except EvalkitError:
        raise
    except (ValueError, AssertionError) as error:
        if task.shots and "sample" in str(error).lower():
            raise DataError(
                f"task {task.name!r}: {task.shots} shots asked, but the split "
                f"{lm_eval_task.fewshot_split(task.task)} has fewer other items; ask for fewer"
            ) from error
        raise DataError(explain(f"{task.name}, document {number}", None, error)) from error
    except Exception as error:  # the task's own code ran on this document
        raise DataError(explain(f"{task.name}, document {number}", None, error)) from error


def _item(
    task: Any, number: int, doc: Mapping[str, Any], made: Sequence[Any], cluster: int
) -> TaskItem:
    choices, gold = lm_eval_task.choices_and_gold(task, doc)
    requests = tuple(_request(instance) for instance in made)
    return TaskItem(
        doc_id=number,
        doc_hash=lm_eval_task.doc_hash(doc),
        prompt_hash=lm_eval_task.prompt_hash(str(made[0].args[0])),
        target=str(task.doc_to_target(doc)),
        gold=gold,
        choices=tuple(choices),
        cluster=cluster,
        requests=requests,
    )


def _request(instance: Any) -> Request:
    arguments = instance.args
    if not all(isinstance(part, str) for part in arguments[:1]):
        raise DataError(f"task {instance.task_name!r}: a prompt is {type(arguments[0]).__name__}")
    if instance.request_type == "loglikelihood_rolling":
        return Request("loglikelihood_rolling", "", arguments[0])
    if instance.request_type == "generate_until":
        return Request("generate_until", arguments[0], generation=json.dumps(arguments[1]))
    if instance.request_type != "loglikelihood":
        raise DataError(f"task {instance.task_name!r} asks for {instance.request_type!r}")
    return Request("loglikelihood", arguments[0], str(arguments[1]))


def _chat_hash(chat_template: ChatTemplate | None, system: str | None, multiturn: bool) -> str:
    if chat_template is None and system is None:
        return ""
    template = None if chat_template is None else getattr(chat_template, "template", "")
    return content_hash([template, system, multiturn, getattr(chat_template, "arguments", {})])
