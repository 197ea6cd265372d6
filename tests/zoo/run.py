"""`make zoo`: every causal architecture that transformers knows, pushed through evalkit.

    python tests/zoo/run.py [--folder zoo] [--whole-tokens 8192] [TYPE ...]

Writes a line of JSON for each type as it ends; types that have one are not run again, unless they
are named. docs/models.md is written anew each time. `--whole-tokens` lowers the length beyond
which a window is read in chunks, for a quick run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing as mp
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

from zoo.build import TYPES  # noqa: E402
from zoo.checks import Findings, examine  # noqa: E402
from zoo.table import PAGE, page  # noqa: E402

import evalkit.running.preload  # noqa: E402, F401
from evalkit.scoring import head  # noqa: E402


def main() -> None:
    """Run what is asked for and left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    parser.add_argument("--folder", type=Path, default=Path("zoo"))
    parser.add_argument("--whole-tokens", type=int, default=head.WHOLE_TOKENS)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    results = given.folder / "results.jsonl"
    known = read_results(results)
    for model_type in given.types or [name for name in TYPES if name not in known]:
        # What a library changes for one type must not reach the next; a fork costs no imports.
        child = mp.get_context("fork").Process(target=_run, args=(model_type, given))
        child.start()
        child.join()


def _run(model_type: str, given: argparse.Namespace) -> None:
    """Examine one type, and write its line and the page."""
    begun = time.perf_counter()
    try:
        found = examine(model_type, given.folder, whole_tokens=given.whole_tokens)
    except Exception as error:  # the zoo itself is at fault, or the product raised outside
        traceback.print_exc()
        found = Findings(model_type, raw=[f"{type(error).__name__}: {error}"])
    line = dataclasses.asdict(found) | {"state": found.state}
    line["seconds"] = round(time.perf_counter() - begun, 1)
    results = given.folder / "results.jsonl"
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    PAGE.write_text(page(read_results(results)), encoding="utf-8")
    print(f"{found.state:15} {model_type:28} {line['seconds']:6.1f} s", flush=True)


def read_results(file: Path) -> dict[str, dict[str, object]]:
    """The last line of each type in `file`."""
    if not file.exists():
        return {}
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {str(line["model_type"]): line for line in lines}


if __name__ == "__main__":
    main()
