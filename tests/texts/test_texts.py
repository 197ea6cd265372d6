from __future__ import annotations

import json
from pathlib import Path

import pytest

from evalkit.errors import DataError
from evalkit.texts.documents import load_text, load_texts
from evalkit.texts.hub import HubSource, hub_name, parse_hub


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def jsonl(path: Path, *records: object) -> str:
    return write(path, "".join(json.dumps(record) + "\n" for record in records))


def test_a_plain_file_is_one_document_byte_for_byte(tmp_path: Path) -> None:
    content = " \n = Title = \r\n\n text \n"
    text = load_text(write(tmp_path / "wiki.test.raw", content))
    assert text.documents == (content,)
    assert text.name == "wiki.test"
    assert not text.pages


def test_separator_lines_split_documents_and_take_their_line_breaks(tmp_path: Path) -> None:
    content = (
        "one\n\nmore\n<|endoftext|>\n  two  \r\n<|endoftext|>\r\n\n<|endoftext|>\n"
        "three <|endoftext|> x"
    )
    text = load_text(write(tmp_path / "stories.txt", content))
    assert text.documents == ("one\n\nmore", "  two  ", "three <|endoftext|> x")


def test_limit_keeps_the_first_documents_and_changes_the_identity(tmp_path: Path) -> None:
    source = write(tmp_path / "stories.txt", "a\n<|endoftext|>\nb\n<|endoftext|>\nc")
    two = load_text(source, limit=2)
    assert two.documents == ("a", "b")
    assert two.sha256 != load_text(source).sha256
    assert load_text(source, limit=9) == load_text(source)


def test_identity_is_content_not_name_or_format(tmp_path: Path) -> None:
    plain = load_text(write(tmp_path / "a.txt", "x\n<|endoftext|>\ny"))
    lines = load_text(jsonl(tmp_path / "b.jsonl", {"text": "x"}, {"text": "y"}))
    assert plain.sha256 == lines.sha256
    joined = load_text(write(tmp_path / "c.txt", "xy\n<|endoftext|>\n"))
    assert joined.sha256 != plain.sha256
    pages = load_text(jsonl(tmp_path / "d.jsonl", {"page": "x"}, {"page": "y"}))
    assert pages.pages
    assert pages.sha256 != lines.sha256


def test_jsonl_takes_text_before_page_and_splits_only_at_newlines(tmp_path: Path) -> None:
    records = [{"page": "p", "text": "a\u2028b"}, {"text": "", "n": 3}]
    source = write(
        tmp_path / "x.jsonl", "\n".join(json.dumps(r, ensure_ascii=False) for r in records)
    )
    assert load_text(source).documents == ("a\u2028b", "")


def test_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    assert load_text(write(tmp_path / "x.txt", b"\xef\xbb\xbfHello")).documents == ("Hello",)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("x.txt", "", ["is empty"]),
        ("x.txt", " \n\t\n", ["is empty"]),
        ("x.txt", "\n<|endoftext|>\n\n<|endoftext|>\n", ["is empty"]),
        ("x.jsonl", "\n\n", ["is empty"]),
        ("x.txt", b"caf\xe9!", ["not UTF-8", "byte 3 is 0xe9", "iconv"]),
        ("x.txt", "hi".encode("utf-16"), ["not UTF-8", "byte 0", "iconv -f UTF-16"]),
        ("x.jsonl", '{"text": "a"}\n\n{"text": "b"\n', ["line 3", "not JSON"]),
        ("x.jsonl", "[" * 100_000, ["line 1", "not JSON"]),
        ("x.jsonl", '["a"]\n', ["line 1", "JSON list", "object"]),
        ("x.jsonl", '{"body": "a", "id": 1}\n', ["line 1", "no field 'text'", "body, id"]),
        ("x.jsonl", "{}\n", ["fields at hand are none"]),
        ("x.jsonl", '{"text": "a"}\n{"page": "b"}\n', ["line 2", "no field 'text'", "page"]),
        ("x.jsonl", '{"text": 3}\n', ["line 1", "'text' is int, not text"]),
        ("x.jsonl", '{"text": "\\ud800"}\n', ["line 1", "surrogate"]),
    ],
)
def test_bad_files_end_in_one_line(
    tmp_path: Path, name: str, content: str | bytes, parts: list[str]
) -> None:
    source = write(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        load_text(source)
    message = str(caught.value)
    assert "\n" not in message
    assert source in message
    for part in parts:
        assert part in message


def test_missing_file_suggests_a_sibling(tmp_path: Path) -> None:
    write(tmp_path / "tinystories.txt", "x")
    with pytest.raises(DataError, match=r"does not exist; did you mean 'tinystories.txt'\?"):
        load_text(str(tmp_path / "tinystorys.txt"))
    with pytest.raises(DataError, match="does not exist; check the path"):
        load_text(str(tmp_path / "nowhere" / "x.txt"))
    with pytest.raises(DataError, match="limit 0"):
        load_text(str(tmp_path / "tinystories.txt"), limit=0)


def test_equal_names_get_suffixes(tmp_path: Path) -> None:
    sources = []
    for folder, name in (("a", "x.txt"), ("b", "x.txt"), ("c", "x-2.txt"), ("d", "x.md")):
        (tmp_path / folder).mkdir()
        sources.append(write(tmp_path / folder / name, folder))
    assert [text.name for text in load_texts(sources)] == ["x", "x-2", "x-2-2", "x-3"]


def test_hub_sources_are_positional() -> None:
    assert parse_hub("hf:a/b") == HubSource("a/b", "", "test", "")
    assert parse_hub("hf:a/b:c:validation:body") == HubSource("a/b", "c", "validation", "body")
    assert parse_hub("hf:a/b::train") == HubSource("a/b", "", "train", "")
    assert hub_name("hf:a/wikitext:raw:test") == "wikitext-raw-test"
    for bad in ("hf:", "hf::x", "hf:a:b:c:d:e"):
        with pytest.raises(DataError, match="is not a hub dataset"):
            parse_hub(bad)


def test_datasets_are_read_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    data.mkdir()
    jsonl(data / "test.jsonl", *({"body": word, "n": 1} for word in ("a", "", "c")))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    text = load_text(f"hf:{data}:::body")
    assert text.documents == ("a", "", "c")
    assert load_text(f"hf:{data}:::body", limit=2).documents == ("a", "")
    assert load_text(f"hf:{data}:::body", limit=9).documents == ("a", "", "c")
    for source, part in (
        (f"hf:{data}", "no field 'text' or 'page': fields at hand are body, n"),
        (f"hf:{data}:::n", "'n' is not text"),
        (f"hf:{data}::train:body", "train"),
        (f"hf:{data}:other::body", "other"),
    ):
        with pytest.raises(DataError) as caught:
            load_text(source)
        assert part in str(caught.value)


def test_offline_is_one_line_and_leaves_the_library_as_it_was() -> None:
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(DataError, match="not in the local cache and --offline is set"):
        load_text("hf:evalkit-tests/not-a-dataset", offline=True)
    assert before == datasets.config.HF_HUB_OFFLINE
