"""Prompts: few-shot examples without the item itself, hashes, chat templates, storage."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from task_helpers import CHOICE_YAML, choice_rows, own_data, own_tasks, write_jsonl

from evalkit.errors import DataError, StoreError, UsageError
from evalkit.records import TaskSlice
from evalkit.store.task_requests import Request, TaskRequests
from evalkit.tasks.loading import LoadedTask, load_tasks
from evalkit.tasks.prompts import ChatFormatter, build_requests, cluster_numbers

pytestmark = pytest.mark.usefixtures("registry_home")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    own_tasks(tmp_path / "yaml")
    own_data(tmp_path / "data")
    return tmp_path


def task(
    files: Path, name: str, shots: int | None = None, limit: int | None = None, seed: int = 0
) -> LoadedTask:
    loaded = load_tasks(
        [TaskSlice(name, shots, limit)],
        data=files / "data",
        include_path=[files / "yaml"],
        seed=seed,
    )
    assert loaded.failures == ()
    return loaded.tasks[0]


def test_requests_of_a_choice_task(files: Path) -> None:
    requests = build_requests(task(files, "choices", limit=5))
    assert (len(requests.items), requests.count, requests.split) == (5, 15, "test")
    item = requests.items[4]
    assert (item.doc_id, item.gold, item.target) == (4, 1, "1")
    assert item.choices == ("thing 4", "other 16", "a third and longer option 4")
    assert item.requests[1] == Request(
        "loglikelihood", "Question: What is number 4?\nAnswer:", " other 16"
    )
    assert requests.random_seeds == {"python": 0, "numpy": 1234, "fewshot": 1234}


def test_requests_of_the_other_kinds(files: Path) -> None:
    (request,) = build_requests(task(files, "sums", limit=1)).items[0].requests
    assert (request.kind, request.context) == ("generate_until", "0 + 1")
    assert request.arguments == ("0 + 1", {"until": ["\n"], "max_gen_toks": 8})
    (request,) = build_requests(task(files, "pages", limit=1)).items[0].requests
    assert request.arguments == ("page 0 has some words, ",)


def test_same_settings_same_prompts_another_seed_other_examples(files: Path) -> None:
    first = build_requests(task(files, "choices", 3))
    loaded = task(files, "choices", 3)
    assert build_requests(loaded) == first
    assert build_requests(loaded).id == first.id
    assert build_requests(task(files, "choices", 3, seed=1)).id != first.id
    assert build_requests(task(files, "choices", 2)).id != first.id


def questions(context: str) -> list[str]:
    return [line for line in context.splitlines() if line.startswith("Question: ")]


@pytest.mark.parametrize("fewshot", ["", "fewshot_split: test\n", "fewshot_split: gone\n"])
@pytest.mark.parametrize("sampler", ["", "fewshot_config:\n  sampler: first_n\n"])
def test_item_is_never_its_own_example(files: Path, fewshot: str, sampler: str) -> None:
    text = CHOICE_YAML.format(name="self") + fewshot + sampler
    (files / "yaml/self.yaml").write_text(text, encoding="utf-8")
    write_jsonl(files / "data/tasks/self/test.jsonl", choice_rows(7))
    loaded = task(files, "self", 5)
    assert "few-shot examples come from the split test: never the item itself" in loaded.notes[-1]
    for item in build_requests(loaded).items:
        asked = questions(item.requests[0].context)
        assert len(asked) == 6
        assert len(set(asked)) == 6


def test_item_is_kept_out_on_the_validation_split_named_for_examples(files: Path) -> None:
    text = CHOICE_YAML.format(name="self").replace("test_split: test\n", "")
    (files / "yaml/self.yaml").write_text(text + "fewshot_split: validation\n", encoding="utf-8")
    write_jsonl(files / "data/tasks/self/validation.jsonl", choice_rows(6))
    for item in build_requests(task(files, "self", 5)).items:
        assert len(set(questions(item.requests[0].context))) == 6


def test_more_shots_than_examples_is_one_line(files: Path) -> None:
    with pytest.raises(DataError, match=r"10 shots asked, but the split train has fewer"):
        build_requests(task(files, "choices", 10))
    write_jsonl(files / "data/tasks/choices/test.jsonl", choice_rows(3))
    (files / "data/tasks/choices/train.jsonl").unlink()
    with pytest.raises(DataError, match=r"3 shots asked, but"):
        build_requests(task(files, "choices", 3))


def test_document_the_task_cannot_read_is_named(files: Path) -> None:
    rows = choice_rows(4)
    rows[2]["options"] = None
    write_jsonl(files / "data/tasks/choices/test.jsonl", rows)
    with pytest.raises(DataError, match=r"task 'choices, document 2': "):
        build_requests(task(files, "choices"))


def test_saved_requests_come_back_equal(files: Path, tmp_path: Path) -> None:
    for name in ("choices", "sums", "pages"):
        requests = build_requests(task(files, name))
        requests.save(tmp_path / "kept.parquet")
        back = TaskRequests.load(tmp_path / "kept.parquet")
        assert back == requests
        assert back.id == requests.id


def test_changed_or_foreign_request_files_are_refused(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "kept.parquet"
    requests = build_requests(task(files, "choices"))
    requests.save(path)
    table = pq.read_table(path)
    changed = table.set_column(3, "target", [["9"] * len(table)])
    pq.write_table(changed, path)
    with pytest.raises(StoreError, match="was changed after it was written"):
        TaskRequests.load(path)
    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(StoreError, match="holds no task requests"):
        TaskRequests.load(path)
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(StoreError, match="holds no task requests"):
        TaskRequests.load(path)


def test_id_depends_on_content_not_on_where_data_lie(files: Path) -> None:
    requests = build_requests(task(files, "choices"))
    moved = dataclasses.replace(requests, source="elsewhere", notes=("x",), random_seeds={})
    assert moved.id == requests.id
    item = dataclasses.replace(requests.items[0], doc_hash="0")
    assert dataclasses.replace(requests, items=(item, *requests.items[1:])).id != requests.id
    assert dataclasses.replace(requests, repeats=2).id != requests.id


class Tokenizer:
    """A tokenizer with a chat template that may refuse system messages."""

    name_or_path = "tiny"

    def __init__(self, template: str | None, system: bool = True) -> None:
        self.chat_template = template
        self.system = system

    def apply_chat_template(self, messages: list[dict[str, str]], **settings: Any) -> str:
        from jinja2.exceptions import TemplateError

        if not self.system and any(m["role"] == "system" for m in messages):
            raise TemplateError("no system role")
        end = "<bot>" if settings["add_generation_prompt"] else ""
        end += "<think></think>" if settings.get("enable_thinking") is False else ""
        assert settings["continue_final_message"] is not settings["add_generation_prompt"]
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + end


def test_chat_template_makes_turns(files: Path) -> None:
    formatter = ChatFormatter(Tokenizer("a template"))
    loaded = task(files, "choices", 1, limit=2)
    requests = build_requests(loaded, chat_template=formatter, system="Be brief.")
    context = requests.items[1].requests[0].context
    assert context.startswith("<system>Be brief.<user>Question: ")
    assert context.count("<user>") == 2
    assert context.count("<assistant>") == 1
    assert context.endswith("<bot>")
    assert requests.items[1].requests[0].continuation == "thing 1"
    one_turn = build_requests(loaded, chat_template=formatter, multiturn=False)
    assert one_turn.items[1].requests[0].context.count("<user>") == 1
    assert "" != requests.chat != one_turn.chat
    assert build_requests(loaded).chat == ""


def test_arguments_reach_the_template_and_thinking_is_noted(files: Path) -> None:
    messages = [{"role": "user", "content": "u"}]
    tokenizer = Tokenizer("{% if enable_thinking is false %}")
    plain, quick = ChatFormatter(tokenizer), ChatFormatter(tokenizer, ["enable_thinking=False"])
    assert quick.arguments == {"enable_thinking": False}
    assert (plain(messages), quick(messages)) == ("<user>u<bot>", "<user>u<bot><think></think>")
    assert ChatFormatter(tokenizer, ["a=x y", "n=3"]).arguments == {"a": "x y", "n": 3}
    loaded = task(files, "sums", limit=1)
    thinking, at_once = (build_requests(loaded, chat_template=one) for one in (plain, quick))
    assert any("--chat-template-args enable_thinking=false" in note for note in thinking.notes)
    assert not any("think" in note for note in at_once.notes)
    assert thinking.chat != at_once.chat
    choices = build_requests(task(files, "choices", limit=1), chat_template=plain)
    assert not any("think" in note for note in choices.notes)


def test_template_without_system_role_gets_the_chat_without_it() -> None:
    formatter = ChatFormatter(Tokenizer("a template", system=False))
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert formatter(messages) == "<user>u<bot>"


def test_tokenizer_without_chat_template_is_refused() -> None:
    with pytest.raises(UsageError, match="the tokenizer tiny has no chat template"):
        ChatFormatter(Tokenizer(None))


def test_clusters_are_items_that_share_a_passage() -> None:
    docs = [{"passage": "a"}, {"passage": "b"}, {"passage": "a"}]
    assert cluster_numbers(docs) == [0, 1, 0]
    assert cluster_numbers([{"passage": "a"}, {"passage": "b"}]) == [0, 1]
    assert cluster_numbers([{"context": "x", "story": "s"}, {"context": "y", "story": "s"}]) == [
        0,
        0,
    ]
    assert cluster_numbers([{"question": "q"}, {"question": "q"}]) == [0, 1]
