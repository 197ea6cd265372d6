"""A comparison that is killed, raced or interrupted goes on and ends with the same values."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny
from timeless import timeless

SCRIPT = """
import json, os, sys
import evalkit
from evalkit.view import render

variants, words, out, log = sys.argv[1:]
file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def listen(event):
    if event.unit:
        line = json.dumps([event.variant, event.stage, event.done])
        os.write(file, (line + "\\n").encode())

comparison = evalkit.compare(*variants.split(), out=out, progress=listen, **json.loads(words))
print(render(comparison, "json"))
"""


class Case:
    """One comparison, as a command on stores of their own; `words` are those of evalkit.compare."""

    def __init__(self, folder: Path, variants: str, **words: Any) -> None:
        self.folder = folder
        self.variants = variants
        self.words = words
        (folder / "run.py").write_text(SCRIPT, encoding="utf-8")

    def start(self, out: Path) -> subprocess.Popen[str]:
        command = [
            sys.executable, str(self.folder / "run.py"), self.variants, json.dumps(self.words),
            str(out), f"{out}.log",
        ]  # fmt: skip
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, out: Path) -> dict[str, Any]:
        return self.values(self.start(out))

    def values(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
        return timeless(json.loads(stdout))

    def went_on(self, out: Path) -> bool:
        """Whether no stage began before what it had told; a checkpoint is made as a whole."""
        done: dict[tuple[str, str], float] = defaultdict(float)
        for line in Path(f"{out}.log").read_text(encoding="utf-8").splitlines():
            variant, stage, now = json.loads(line)
            if now < done[variant, stage] and stage != "quantizing":
                return False
            done[variant, stage] = now
        return True


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("kills")
    (folder / "text.txt").write_text(tiny.documents(1, 30), encoding="utf-8")
    model = tiny.make_llama(folder / "model")
    words = {"model": str(model), "text": str(folder / "text.txt"), "batch_tokens": 256}
    return Case(folder, "fp32 fp16", **words)


@pytest.fixture(scope="module")
def undisturbed(case: Case) -> dict[str, Any]:
    return case.finish(case.folder / "undisturbed")


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill_repeatedly(case: Case, kills: int) -> None:
    begun = time.monotonic()
    values = case.finish(case.folder / "whole")
    seconds = time.monotonic() - begun
    random_moments = random.Random(kills)
    killed = 0
    stores = 0
    while killed < kills:
        # Each store takes some kills until it is finished; then another one begins.
        out = case.folder / f"store-{stores}"
        stores += 1
        while True:
            process = case.start(out)
            try:
                process.wait(random_moments.uniform(0.3, 1.0) * seconds)
            except subprocess.TimeoutExpired:
                children = family(process)
                if random_moments.random() < 0.5:
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()
                process.communicate()
                _, alive = psutil.wait_procs(children, timeout=20)
                assert not alive
                killed += 1
                if killed < kills:
                    continue
            else:
                process.communicate()
            break
        assert case.finish(out) == values
        # Only the batch in flight, which was not told yet, is done again.
        assert case.went_on(out)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_demo_killed_at_forty_moments(tmp_path: Path) -> None:
    kill_repeatedly(Case(tmp_path, "fp16 int8 int4", model="demo", limit=30), 40)


def race(case: Case, values: dict[str, Any], name: str) -> None:
    out = case.folder / name
    both = [case.start(out) for _ in range(2)]
    assert [case.values(process) for process in both] == [values, values]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_races(case: Case, undisturbed: Any) -> None:
    for number in range(20):
        race(case, undisturbed, f"race-{number}")


def test_ctrl_c_ends_after_the_batch_and_leaves_nothing_running(
    case: Case, undisturbed: Any
) -> None:
    out = case.folder / "interrupted"
    command = [
        sys.executable, "-m", "evalkit", "compare", *case.variants.split(), "--model",
        case.words["model"], "--text", case.words["text"], "--out", str(out), "--batch-tokens",
        str(case.words["batch_tokens"]), "--format", "json",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that run in the background of a shell inherit that it ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("raw/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = family(process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.strip().splitlines()[-1].endswith("run the same command again to go on")
    assert "Traceback" not in stderr
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert timeless(json.loads(done.stdout)) == undisturbed
