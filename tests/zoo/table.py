"""The page "Which models": the zoo's results as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
STATES = {
    "works": "fp32, int8, int4 and NF4 all run; every number is plain transformers'",
    "refused": "what does not run says why in one line, and what to use instead; the rest is exact",
    "not built": "transformers itself cannot build or reload a small model of it",
    "advice fails": "a refusal is left whose advice does not work, or that has none",
    "raw error": "an error of a library is left that is not said in evalkit's words",
    "silently wrong": "a number differs from plain transformers'",
}
_HEAD = """# Which models

Any causal language model that transformers knows can be evaluated. A picture's or a sound's reader
beside a text model is loaded and left as it is: the text model is what is measured and quantized.

`make zoo` builds a small random model of every causal architecture of the installed transformers
and pushes it through a plan and a comparison of fp32, int8, int4 and NF4, at least 90 % packed,
on a text, tasks with shared prefixes and generated text, and a window that is read in chunks.
Perplexity, log-likelihoods and greedy tokens are held against plain transformers, bytes against a
count of their own; what a refusal advises is tried. Written by it, with transformers {version}:

{counts}

Of those that work, int4 is {int4}. Types that are not in the table were not run.

| type | state | int4 | what is refused, and why |
| --- | --- | --- | --- |
"""


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown of all `results`, by type."""
    counted = Counter(_state(one) for one in results.values())
    counts = "\n".join(f"- {counted[s]} {s}: {words}" for s, words in STATES.items() if counted[s])
    rows = [
        f"| {name} | {_state(one)} | {_int4(one)} | {'<br>'.join(_refusals(one))} |"
        for name, one in sorted(results.items())
    ]
    methods = Counter(_int4(one) for one in results.values() if _state(one) == "works")
    int4 = ", ".join(f"{method} for {n}" for method, n in methods.most_common())
    head = _HEAD.format(version=transformers.__version__, counts=counts, int4=int4)
    return head + "\n".join(rows) + "\n"


def _state(one: Mapping[str, Any]) -> str:
    return "not built" if "transformers" in one["steps"] else str(one["state"])


def _int4(one: Mapping[str, Any]) -> str:
    """What the bare word int4 became: GPTQ and its group size, or NF4."""
    found = str(one.get("int4", ""))
    group = found.partition("group_size=")[2].partition(",")[0]
    return f"GPTQ g{group}" if group else "NF4" if found else ""


def _refusals(one: Mapping[str, Any]) -> list[str]:
    """What did not end well, a line each, without what is of this machine."""
    return [f"{step}: {_plain(found)}" for step, found in one["steps"].items() if found != "ok"]


def _plain(line: str) -> str:
    words = [w for w in line.split() if not w.startswith("/")]
    return " ".join(words).partition(",calibration=")[0].replace("|", "\\|")[:240]
