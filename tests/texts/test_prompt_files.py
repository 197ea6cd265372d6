"""Prompts of every kind of file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalkit.errors import DataError
from evalkit.records.answers import Message, Prompt
from evalkit.texts.prompts import load_prompts

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
ENTRIES: list[dict[str, Any]] = [
    {"prompt": "One, two,\nthree"},
    {"prompt": "2 + 2 =", "reference": 4, "check": "number"},
    {"prompt": "Capital?", "reference": "Paris"},
]
PROMPTS = (
    Prompt("One, two,\nthree"),
    Prompt("2 + 2 =", reference="4", check="number"),
    Prompt("Capital?", reference="Paris", check="contains"),
)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_same_prompts_in_every_format(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(entry) for entry in ENTRIES)
    table = '"One, two,\nthree",,\n2 + 2 =,4,number\nCapital?,Paris,\n'
    columns = {n: [e.get(n) and str(e[n]) for e in ENTRIES] for n in ENTRIES[1]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for source in (
        write(tmp_path / "p.jsonl", lines + "\n\n"),
        write(tmp_path / "p.json", json.dumps(ENTRIES)),
        write(tmp_path / "p.csv", f"prompt,reference,check\n{table}"),
        write(tmp_path / "q.csv", f"question,reference,check\n{table}") + "::question",
        str(tmp_path / "p.parquet"),
        str(tmp_path / "p.jsonl.gz"),
    ):
        assert load_prompts(source) == PROMPTS
        assert load_prompts(source, 2) == PROMPTS[:2]


def test_a_plain_text_has_a_prompt_a_line_or_between_separators(tmp_path: Path) -> None:
    assert load_prompts(write(tmp_path / "a.txt", "one\n\ntwo \n")) == (
        Prompt("one"), Prompt("two "),
    )  # fmt: skip
    text = "one\nmore\n<|endoftext|>\ntwo\n"
    assert load_prompts(write(tmp_path / "b.txt", text)) == (Prompt("one\nmore"), Prompt("two"))


def test_a_chat_is_its_turns(tmp_path: Path) -> None:
    chat = Prompt("Why?", (Message("system", "Be brief."), Message("user", "Why?")))
    for source in (
        write(tmp_path / "c.jsonl", json.dumps({"messages": CHAT})),
        write(tmp_path / "c.csv", 'messages\n"' + json.dumps(CHAT).replace('"', '""') + '"\n'),
    ):
        assert load_prompts(source) == (chat,)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"text": "a"}, "has no text 'prompt' and no 'messages': fields at hand are text"),
        ({"prompt": " "}, "has no text 'prompt'"),
        ({"prompt": "a", "check": "exct", "reference": "b"}, "did you mean 'exact'"),
        ({"prompt": "a", "check": "exact"}, "the check 'exact' needs a 'reference'"),
        ({"prompt": "a", "check": "regex", "reference": "("}, "is no regex"),
        ({"prompt": "a", "check": "number", "reference": "x"}, "is no number"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "`role` (system, user, assistant)"),
        ({"messages": CHAT[:1]}, "the last one the user's"),
        ({"messages": "no"}, "'messages' are not JSON"),
        ({"prompt": "\ud800"}, "unpaired surrogate"),
        (["a"], "each line must be one object"),
    ],
)
def test_what_is_no_prompt_is_one_line(tmp_path: Path, entry: Any, message: str) -> None:
    file = write(tmp_path / "p.jsonl", json.dumps(entry))
    with pytest.raises(DataError) as error:
        load_prompts(file)
    assert message in str(error.value)


def test_files_that_hold_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds none"):
        load_prompts(write(tmp_path / "p.jsonl", "\n"))
    with pytest.raises(DataError, match="is a directory: name one file"):
        load_prompts(str(tmp_path))
    with pytest.raises(DataError, match=r"does not exist; did you mean 'p\.jsonl'"):
        load_prompts(str(tmp_path / "p.jsonll"))
    with pytest.raises(DataError, match="not Parquet"):
        load_prompts(write(tmp_path / "p.parquet", "no"))
    with pytest.raises(DataError, match="an array of texts or of objects"):
        load_prompts(write(tmp_path / "p.json", "{}"))
