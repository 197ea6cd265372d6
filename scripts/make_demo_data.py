"""Write the demo's tokenizer, test text, calibration text, tasks and prompts, all from seeds.

    python scripts/make_demo_data.py [--out data/demo]

The text files hold documents separated by a line `<|endoftext|>`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from demo_tokenizer import save_tokenizer, train_tokenizer
from tokenizers import Tokenizer
from world.corpus import documents, head, join_documents, without_overlap
from world.tasks import YAML, task_rows

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER_DOCUMENTS = 60_000
TEST_TOKENS = 60_000
CALIBRATION_TOKENS = 120_000
TASK_ITEMS = 500
PROMPTS_OF_A_TASK = 20
CONTEXT = 1024


def take_tokens(stream: Iterable[str], tokenizer: Tokenizer, tokens: int) -> Iterator[str]:
    """Documents of the stream until they hold `tokens` tokens together."""
    total = 0
    for document in stream:
        yield document
        total += len(tokenizer.encode(document).ids)
        if total >= tokens:
            return


def write_texts(out: Path, tokenizer: Tokenizer) -> None:
    """The test text, and a calibration text that shares no 13 words in a row with it."""
    test = list(take_tokens(documents("test"), tokenizer, TEST_TOKENS))
    clean = without_overlap(documents("calibration"), test)
    calibration = take_tokens(clean, tokenizer, CALIBRATION_TOKENS)
    for file, texts in (
        (out / "text" / "town_test.txt", test),
        (out / "calibration" / "town_calibration.txt", calibration),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(join_documents(texts), encoding="utf-8")


def write_tasks(out: Path) -> None:
    """A JSONL file and an lm-eval configuration for each task."""
    out.mkdir(parents=True, exist_ok=True)
    for task, configuration in YAML.items():
        rows = (json.dumps(row) + "\n" for row in task_rows(task, TASK_ITEMS))
        (out / f"{task}.jsonl").write_text("".join(rows), encoding="utf-8")
        (out / f"{task}.yaml").write_text(configuration, encoding="utf-8")


def prompt_rows() -> Iterator[dict[str, str]]:
    """Prompts for `evalkit answers`: items of three tasks, whose answer is to begin rightly."""
    for task in ("demo_where", "demo_last_word", "demo_sums"):
        for row in task_rows(task, TASK_ITEMS)[:PROMPTS_OF_A_TASK]:
            right = row["choices"][row["label"]] if "choices" in row else None
            right = right or row.get("last_word") or row["answer"]
            reference = rf"^\s*{re.escape(right)}\b"
            yield {"prompt": row["context"], "reference": reference, "check": "regex"}


def write_prompts(out: Path) -> None:
    """One JSONL file of prompts with their checks."""
    out.mkdir(parents=True, exist_ok=True)
    rows = (json.dumps(row) + "\n" for row in prompt_rows())
    (out / "town_prompts.jsonl").write_text("".join(rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "demo")
    out = parser.parse_args().out
    tokenizer = train_tokenizer(head("train", TOKENIZER_DOCUMENTS))
    save_tokenizer(tokenizer, out / "model", CONTEXT)
    write_texts(out, tokenizer)
    write_tasks(out / "tasks")
    write_prompts(out / "prompts")


if __name__ == "__main__":
    main()
