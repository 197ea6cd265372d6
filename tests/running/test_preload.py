"""No card is touched before the child that measures, whatever libraries are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]

FORKED = """
import json
from evalkit.progress import ignore
from evalkit.running import process
process.PRELOAD.insert(0, "cuda_stand_in")
import cuda_stand_in
print(json.dumps(process.run_child(cuda_stand_in.report, None, ignore)))
"""

PLANNED = """
import json
import cuda_stand_in
from evalkit.models.resolve import resolve_config
from evalkit.running import memory_check
from evalkit.backends import parse_variant
memory_check.gpu_memory = lambda device: 12e9
refused = memory_check.refusals([parse_variant("fp16")], resolve_config("phi-3-small"), "cuda", 512)
assert refused
print(json.dumps(cuda_stand_in.report(None, None)))
"""


def _report(script: str) -> dict[str, Any]:
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    found = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    report: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return report


@pytest.mark.parametrize("script", [FORKED, PLANNED], ids=["a child", "the memory check"])
def test_a_card_is_first_touched_by_the_child_that_measures(script: str) -> None:
    pytest.importorskip("torchao", reason="the library that touches a card when it is imported")
    report = _report(script)
    assert report["imported"] == ["transformers", "torchao"]
    assert report["before"] == []
    # Hidden while libraries were imported, there afterwards.
    assert report["available"] and report["count"] == 1
    assert report["after"] == ["device_count", "_lazy_init", "device_count"]
    # These were told that there is no card, and every child inherits what they made of it: torchao
    # leaves out kernels for Blackwell's MX formats, which evalkit does not use. A new name here
    # needs the same look.
    assert set(report["asked"]) <= {"torchao"}
