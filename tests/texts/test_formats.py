"""Texts of every format of the list: read as what they are, never as raw text in silence."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalkit.errors import DataError
from evalkit.texts.documents import load_text
from evalkit.texts.files import COMPRESSIONS
from evalkit.texts.formats import FORMATS, format_of

STORIES = ["Once, upon a time", 'she said "NA"\nand left', "NA", "1.0"]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def table(path: Path, delimiter: str = ",", **columns: list[str]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return str(path)


def one_of_each(folder: Path) -> dict[str, str]:
    """The same stories in a file of every format, by the format's name."""
    numbers = [str(place) for place in range(len(STORIES))]
    objects = [{"n": place, "text": story} for place, story in enumerate(STORIES)]
    made = {
        "plain text": write(folder / "a.txt", "\n<|endoftext|>\n".join(STORIES)),
        "JSON Lines": write(folder / "b.jsonl", "\n".join(map(json.dumps, objects))),
        "JSON": write(folder / "c.json", json.dumps(objects)),
        "CSV": table(folder / "d.csv", n=numbers, text=STORIES),
        "TSV": table(folder / "e.tsv", "\t", n=numbers, text=STORIES),
        "Parquet": str(folder / "f.parquet"),
    }
    pq.write_table(pa.table({"n": numbers, "text": STORIES}), made["Parquet"])
    return made


@pytest.mark.parametrize("name", [one.name for one in FORMATS])
def test_every_format_gives_the_same_documents(name: str, tmp_path: Path) -> None:
    source = one_of_each(tmp_path)[name]
    text = load_text(source)
    assert text.documents == tuple(STORIES)
    assert text.name == Path(source).stem
    assert text.notes == ()
    assert load_text(source, limit=2).documents == tuple(STORIES[:2])
    assert format_of(source).name == name


@pytest.mark.parametrize("ending", list(COMPRESSIONS))
@pytest.mark.parametrize("name", ["plain text", "CSV"])
def test_compressed_files_are_read_as_what_is_in_them(
    ending: str, name: str, tmp_path: Path
) -> None:
    plain = Path(one_of_each(tmp_path)[name])
    packed = plain.with_name(plain.name + ending)
    codec = COMPRESSIONS[ending][1]
    with pa.CompressedOutputStream(str(packed), codec) as stream:
        stream.write(plain.read_bytes())
    text = load_text(str(packed))
    assert (text.name, text.documents) == (plain.stem, tuple(STORIES))
    cut = write(tmp_path / f"cut.txt{ending}", packed.read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be decompressed"):
        load_text(cut)
    with pytest.raises(DataError, match=f"not compressed by {codec}"):
        load_text(write(tmp_path / f"raw.txt{ending}", "x"))


def test_a_column_by_name_and_one_that_is_guessed(tmp_path: Path) -> None:
    source = table(tmp_path / "x.csv", id=["1", "2"], body=["a", "7"])
    guessed = load_text(source)
    assert guessed.documents == ("a", "7")
    assert guessed.notes == (
        f"text {source}: column 'body' is taken, the only one that holds text",
    )
    two = table(tmp_path / "y.csv", title=["A", "B"], body=["a", "b"])
    assert load_text(f"{two}::title").documents == ("A", "B")
    assert load_text(f"{two}::body").notes == ()
    array = write(tmp_path / "z.json", json.dumps([{"q": "a", "r": "b"}]))
    assert load_text(f"{array}::r").documents == ("b",)
    lines = write(tmp_path / "z.jsonl", '{"body": "a"}\n{"body": "b"}')
    assert load_text(f"{lines}::body").documents == ("a", "b")
    odd = write(tmp_path / "od::d.txt", "x")
    assert load_text(odd).documents == ("x",)


def test_arrays_of_texts_and_files_of_one_object(tmp_path: Path) -> None:
    assert load_text(write(tmp_path / "a.json", '["x", "y"]')).documents == ("x", "y")
    assert load_text(write(tmp_path / "b.json", '{"text": "x"}')).documents == ("x",)
    lines = write(tmp_path / "c.json", '{"text": "x"}\n{"text": "y"}\n')
    assert load_text(lines).documents == ("x", "y")
    named_wrongly = load_text(write(tmp_path / "d.txt", '["x", "y"]'))
    assert named_wrongly.documents == ('["x", "y"]',)
    assert "is JSON and scored as plain text: name it .json" in named_wrongly.notes[0]
    assert load_text(write(tmp_path / "e.txt", "[1] is a footnote")).notes == ()


def test_line_ends_of_windows_are_said_and_scored_as_they_are(tmp_path: Path) -> None:
    text = load_text(write(tmp_path / "x.txt", "one\r\ntwo\r\n"))
    assert text.documents == ("one\r\ntwo\r\n",)
    assert "(CRLF), which are scored as they are" in text.notes[0]
    rows = load_text(write(tmp_path / "x.csv", 'text\r\n"a\r\nb"\r\nc\r\n'))
    assert rows.documents == ("a\r\nb", "c")
    assert "CRLF" in rows.notes[0]
    assert load_text(write(tmp_path / "y.csv", "text\r\na\r\n")).notes == ()


def test_a_directory_is_one_text_of_all_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    (folder / "part").mkdir(parents=True)
    write(folder / "b.txt", "second")
    write(folder / "a.md.gz", gzip.compress(b"first"))
    write(folder / ".hidden", "not this")
    table(folder / "part" / "c.csv", title=["T"], body=["third"])
    text = load_text(f"{folder}::body")
    assert (text.name, text.documents) == ("books", ("first", "second", "third"))
    assert load_text(str(folder), limit=2).documents == ("first", "second")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="directory without files"):
        load_text(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("x.csv", "title,body\nA,a\n", ["2 columns hold text", "title, body", "FILE::COLUMN"]),
        ("x.csv", "n\n1\n2\n", ["no column holds text (columns are n): give a table"]),
        ("x.csv", "text,n\na,1\nb,c,2\n", ["line 3 has 3 cells, its header 2"]),
        ("x.csv", 'text\n"a"b\n', ["line 2 cannot be read"]),
        ("x.csv::txt", "text\na\n", ["no column 'txt'", "did you mean 'text'"]),
        ("x.csv::n", "text,n\na,1\n", ["column 'n' holds no text"]),
        ("x.csv", b"text\ncaf\xe9\n", ["not UTF-8"]),
        ("x.csv", "", ["is empty"]),
        ("x.json", "[1, 2]", ["JSON list", "an array of texts"]),
        ("x.json", '{"data": []}', ["JSON dict"]),
        ("x.json", "[", ["is not JSON"]),
        ("x.json", '[{"text": "a"}, {"n": 1}]', ["item 2 has no field 'text'"]),
        ("x.json", '["\\ud800"]', ["surrogate"]),
        ("x.parquet", b"PAR1", ["not Parquet"]),
        ("x.txt::text", "a", ["is plain text and has no column 'text'"]),
        ("x.docx", b"PK\x03\x04rest", ["a zip archive"]),
        ("x.txt.xz", b"\xfd7zXZ\x00", ["compressed by xz", ".zst"]),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(
    tmp_path: Path, name: str, content: str | bytes, parts: list[str]
) -> None:
    file, separator, column = name.partition("::")
    source = write(tmp_path / file, content) + separator + column
    with pytest.raises(DataError) as caught:
        load_text(source)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / file) in message
    for part in parts:
        assert part in message


def test_empty_cells_of_parquet_are_empty_documents(tmp_path: Path) -> None:
    cells = pa.array(["a", None, "b"]).dictionary_encode()
    pq.write_table(pa.table({"story": cells, "n": [1, 2, 3]}), tmp_path / "x.parquet")
    assert load_text(str(tmp_path / "x.parquet")).documents == ("a", "", "b")
