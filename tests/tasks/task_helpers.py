"""A small lm-eval task on disk and a model that answers by hash, for the tests of tasks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM

CHOICE_YAML = """\
task: {name}
dataset_path: some/where
dataset_name: null
output_type: multiple_choice
training_split: train
validation_split: validation
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{options}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 3.0
"""

GENERATE_YAML = """\
task: sums
dataset_path: some/sums
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{result}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 8
filter_list:
  - name: strict
    filter:
      - function: regex
        regex_pattern: "= (\\\\d+)"
      - function: take_first
  - name: loose-match
    filter:
      - function: regex
        regex_pattern: "(\\\\d+)"
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""

PAGES_YAML = """\
task: pages
dataset_path: some/pages
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{page}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
"""


def choice_rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Questions with three options; the option at `answer` is right."""
    return [
        {
            "question": f"What is number {n}?",
            "options": [f"thing {n}", f"other {n * n}", f"a third and longer option {n}"],
            "answer": n % 3,
        }
        for n in range(start, start + count)
    ]


def sum_rows(count: int) -> list[dict[str, Any]]:
    return [{"question": f"{n} + 1", "result": str(n + 1)} for n in range(count)]


def page_rows(count: int) -> list[dict[str, Any]]:
    return [{"page": f"page {n} has some words, " * (n + 1)} for n in range(count)]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def own_tasks(folder: Path) -> Path:
    """A folder of YAML tasks: choices, sums, pages."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "choices.yaml").write_text(CHOICE_YAML.format(name="choices"), encoding="utf-8")
    (folder / "sums.yaml").write_text(GENERATE_YAML, encoding="utf-8")
    (folder / "pages.yaml").write_text(PAGES_YAML, encoding="utf-8")
    return folder


def own_data(folder: Path) -> Path:
    """Data for `own_tasks`, laid out as `--data` takes it."""
    write_jsonl(folder / "tasks/choices/test.jsonl", choice_rows(12))
    write_jsonl(folder / "tasks/choices/train.jsonl", choice_rows(9, start=100))
    write_jsonl(folder / "tasks/sums/test.jsonl", sum_rows(6))
    write_jsonl(folder / "tasks/pages/test.jsonl", page_rows(4))
    return folder


class HashLM(LM):
    """Answers that depend on the request only; `stop_after` answers raise KeyboardInterrupt."""

    def __init__(self, salt: str = "", stop_after: int | None = None) -> None:
        super().__init__()
        self.salt = salt
        self.stop_after = stop_after
        self.asked: list[tuple[Any, ...]] = []

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [self._answer("loglikelihood", r, self._pair(r.args)) for r in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        return [self._answer("loglikelihood_rolling", r, self._pair(r.args)[0]) for r in requests]

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [self._answer("generate_until", r, self._text(r.args)) for r in requests]

    def _answer(self, kind: str, request: Any, answer: Any) -> Any:
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(request.args)
        self.cache_hook.add_partial(kind, request.args, answer)
        return answer

    def _number(self, arguments: Any) -> int:
        text = self.salt + json.dumps(arguments)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    def _pair(self, arguments: Any) -> tuple[float, bool]:
        number = self._number(arguments)
        return -1.0 - number % 9973 / 211.0, number % 2 == 0

    def _text(self, arguments: Any) -> str:
        left = int(arguments[0].split()[-3])
        return [f"it is {left + 1}", f" = {left + 1}", "no idea"][self._number(arguments) % 3]
