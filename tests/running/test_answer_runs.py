"""evalkit answers from end to end on a tiny model: what is stored, found again and compared."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import evalkit
from evalkit.cli import main
from evalkit.errors import DataError, UsageError, VariantError
from evalkit.inference.generate import Generated
from evalkit.models.loading import load_tokenizer
from evalkit.options import AnswersOptions
from evalkit.progress import Event
from evalkit.records.answers import Answers, Message, Prompt
from evalkit.running.answers.plan import Asked, make_answers_plan
from evalkit.running.answers.prompt_tokens import prompt_tokens
from evalkit.view import render

COUNT, PROMPTS = 12, 9
VARIANTS = ("fp32", "int4@bitsandbytes")
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


def texts() -> list[str]:
    return [" ".join(tiny.text(seed, 1).split()[: 3 + seed]) for seed in range(PROMPTS)]


@dataclass(frozen=True)
class House:
    """A tiny model, a file of prompts, a store, and the answers that were made there."""

    model: Path
    prompts: Path
    store: Path
    answers: Answers
    events: tuple[Event, ...]

    def words(self, **more: Any) -> dict[str, Any]:
        return {
            "model": self.model, "prompts": self.prompts, "out": self.store, "generate": COUNT,
        } | more  # fmt: skip


@contextlib.contextmanager
def in_this_process() -> Iterator[None]:
    """Without a process for each variant, which the notebook's test starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "evalkit.running.answers.run.run_child", lambda task, job, send, **_: task(job, send)
        )
        yield


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    root = tmp_path_factory.mktemp("answers")
    model = tiny.make_llama(root / "model")
    prompts = root / "prompts.jsonl"
    entries = [{"prompt": text} for text in texts()]
    entries[0] |= {"check": "json"}
    prompts.write_text("\n".join(map(json.dumps, entries)))
    events: list[Event] = []
    bare = House(model, prompts, root / "store", Answers.__new__(Answers), ())
    with in_this_process():
        found = evalkit.answers(*VARIANTS, progress=events.append, **bare.words())
    return House(model, prompts, root / "store", found, tuple(events))


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something is measured again")

    monkeypatch.setattr("evalkit.running.answers.run.run_child", refuse)
    monkeypatch.setattr("evalkit.running.quantize.run_child", refuse)


def test_greedy_answers_in_float32_equal_plain_generate(house: House) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(house.model).eval()
    tokenizer = load_tokenizer(house.model)
    base = house.answers.rows[0]
    for answer, text in zip(base.answers, texts(), strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=COUNT, do_sample=False
        )
        tokens = made[0, ids.shape[1] :].tolist()
        assert list(answer.tokens) == tokens
        assert answer.stop == ("end" if tokens[-1] == 0 else "length")
        assert answer.text == tokenizer.decode(tokens, skip_special_tokens=True)
        assert answer.first_difference is None
    floor = house.answers.noise_floor
    assert floor is not None
    assert (floor.forked.value, floor.forked.n) == (0, PROMPTS)
    assert floor.margin is not None
    assert floor.margin < 1e-3


def test_forks_leads_and_divergence_of_a_variant(house: House) -> None:
    import pyarrow.parquet as pq

    base, int4 = house.answers.rows
    stored = [pq.read_table(f).to_pydict() for f in house.store.glob("raw/*/answers.parquet")]
    assert len(stored) == 2
    leads = next(
        dict(zip(one["prompt"], one["lead"], strict=True))
        for one in stored
        if dict(zip(one["prompt"], one["text"], strict=True))[3] == base.answers[3].text
    )
    for answer, own in zip(int4.answers, base.answers, strict=True):
        at = next(
            (i for i, (a, b) in enumerate(zip(answer.tokens, own.tokens, strict=False)) if a != b),
            None,
        )
        assert answer.first_difference == at
        assert answer.margin == (None if at is None else leads[answer.prompt][at])
    assert int4.divergence is not None
    assert int4.divergence.value > 1e-4
    assert int4.divergence.n == sum(len(answer.tokens) for answer in base.answers)
    assert int4.same_top1 is not None
    assert 0 < int4.same_top1.value < 1
    assert base.checks is not None
    assert base.checks.right.n == 1
    for one in stored:
        assert {len(x) for x in one["tokens"]} == {len(x) for x in one["log_probability"]}
        assert max(map(max, one["log_probability"])) <= 1e-6


def test_what_was_answered_is_found_by_its_content(house: House, no_processes: None) -> None:
    again = evalkit.answers(*VARIANTS, **house.words())
    assert again == house.answers
    # Checks change no answer, and neither does the name of the file.
    entries = [json.loads(line) for line in house.prompts.read_text().splitlines()]
    entries[1] |= {"reference": "a"}
    other = house.prompts.with_name("other.json")
    other.write_text(json.dumps(entries))
    judged = evalkit.answers(*VARIANTS, **house.words(prompts=other))
    assert judged.rows[0].checks is not None
    assert judged.rows[0].checks.right.n == 2
    assert evalkit.load_answers(store=house.store) == judged
    files = list((house.store / "answers").glob("*.json"))
    opened = [evalkit.load_answers(file) for file in files]
    assert judged in opened
    assert house.answers in opened


@pytest.mark.parametrize(
    "more",
    [{"generate": 3}, {"temperature": 0.7}, {"plain": True}, {"limit": 2}, {"system": "Short."}],
)
def test_what_changes_an_answer_changes_the_key(house: House, more: dict[str, Any]) -> None:
    from evalkit.declaration import resolved

    plans = [
        make_answers_plan(VARIANTS, resolved(AnswersOptions, house.words(**one)))
        for one in ({}, more)
    ]
    assert plans[0].id != plans[1].id
    keys = [[job.parts[0].run.id for job in plan.jobs] for plan in plans]
    assert set(keys[0]).isdisjoint(keys[1])


def test_progress_counts_tokens_and_a_failed_variant_is_a_row(house: House) -> None:
    counted = [e for e in house.events if e.stage == "answering"]
    assert counted[-1].total == PROMPTS * COUNT
    assert max(event.done for event in counted) == PROMPTS * COUNT
    found = evalkit.answers("fp32", "int4@awq", **house.words())
    assert [row.status for row in found.rows] == ["ok", "failed"]
    assert found.rows[1].message
    assert "failed: " in render(found)
    with pytest.raises(VariantError):
        evalkit.answers("int4@awq", "fp32", **house.words())


def test_a_variant_beside_itself_has_no_difference_though_the_reference_was_removed(
    house: House,
) -> None:
    shutil.rmtree(house.store / "references")
    with in_this_process():
        found = evalkit.answers("fp32", "fp32", **house.words())
    same = found.rows[1]
    assert same.identical is not None
    assert same.identical.value == 1
    assert same.divergence is not None
    assert same.divergence.value == pytest.approx(0, abs=1e-6)
    assert same.first_difference_median is None
    assert same.near_ties is None


def test_drawn_answers_repeat_by_their_seed(house: House) -> None:
    words = house.words(temperature=1.2, limit=3, fresh=True)
    with in_this_process():
        one, two, other = (evalkit.answers("fp32", "fp32", seed=s, **words) for s in (1, 1, 2))
    tokens = [[answer.tokens for answer in found.rows[0].answers] for found in (one, two, other)]
    assert tokens[0] == tokens[1] != tokens[2]
    assert tokens[0] != [answer.tokens for answer in house.answers.rows[0].answers[:3]]
    assert one.decoding == "drawn at temperature 1.2 with seed 1, up to 12 tokens"
    assert one.noise_floor is not None
    assert one.noise_floor.margin is None  # of what is drawn a lead says nothing
    assert one.rows[1].near_ties is None


def test_what_an_interruption_left_is_gone_on_with(tmp_path: Path) -> None:
    from evalkit.running.answers.worker import _Kept
    from evalkit.store.parts import Parts

    one = Generated(0, "a b", [5, 6], "end", [(-0.1, 2.0), (-0.2, 1.0)], 0.5)
    kept = _Kept(Parts(tmp_path / "parts", "prompt"))
    kept.add(4, one)
    kept.write()
    kept.write()  # nothing waits: nothing is written
    again = _Kept(Parts(tmp_path / "parts", "prompt"))
    assert again.done == {4}
    again.add(2, one)
    again.write()
    again.parts.merge(tmp_path / "answers.parquet")
    from evalkit.results.load_answers import read_answers_table

    found = read_answers_table(tmp_path / "answers.parquet")
    assert sorted(found) == [2, 4]
    assert found[4].tokens == (5, 6)
    assert np.allclose(found[4].leads, [2.0, 1.0])


class Encoding:
    """What prompt_tokens asks of a language model."""

    max_length, prefix_token_id = 64, 0

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.seen: list[tuple[str, bool | None]] = []

    def tok_encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        self.seen.append((text, add_special_tokens))
        return list(self.tokenizer(text)["input_ids"])


def test_texts_are_a_user_s_turn_where_there_is_a_template(house: House) -> None:
    tokenizer: Any = load_tokenizer(house.model)
    chat = Prompt("why", (Message("system", "own"), Message("user", "why")))
    asked = Asked((Prompt("what"), chat), 8, 0.0, 0, True, "Be brief.", ())
    with pytest.raises(UsageError, match="has no chat template"):
        prompt_tokens(asked, Encoding(tokenizer))  # type: ignore[arg-type]
    tokenizer.chat_template = TEMPLATE
    lm: Any = Encoding(tokenizer)
    prompt_tokens(asked, lm)
    assert lm.seen == [
        ("[system]Be brief.[user]what[assistant]", False),
        ("[system]own[user]why[assistant]", False),
    ]
    plain: Any = Encoding(tokenizer)
    prompt_tokens(Asked((Prompt("what"),), 8, 0.0, 0, False, "", ()), plain)
    assert plain.seen == [("what", None)]
    long = Asked((Prompt("what " * 60),), 60, 0.0, 0, False, "", ())
    with pytest.raises(DataError, match=r"prompt 1 has \d+ tokens: with --generate 60 at most 4"):
        prompt_tokens(long, plain)


def test_the_command_prints_json_of_its_schema(
    house: House, no_processes: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(house.model), "--prompts", str(house.prompts)]
    words += ["--out", str(house.store), "--generate", str(COUNT), "--format", "json", "--quiet"]
    with pytest.raises(SystemExit) as ended:
        main(["answers", *VARIANTS, *words])
    assert ended.value.code == 0
    content = json.loads(capsys.readouterr().out)
    assert content["schema"] == "evalkit.answers/1"
    assert content["baseline"] == "fp32"
    assert len(content["prompts"]) == PROMPTS
    row = content["rows"][1]
    assert set(row["identical"]) == {"value", "low", "high", "n"}
    assert {"prompt", "text", "tokens", "stop", "first_difference", "margin"} <= set(
        row["answers"][0]
    )
    for missing in ([], ["--prompts", "nowhere.jsonl"]):
        with pytest.raises(SystemExit) as ended:
            main(["answers", "fp32", *missing])
        assert ended.value.code == 2
