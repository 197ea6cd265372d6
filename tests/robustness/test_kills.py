"""A comparison that is killed, raced or interrupted goes on and ends with the same values."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny
from timeless import timeless

SCRIPT = """
import json, os, sys
import evalkit
from evalkit.view.export import dumps

model, text, out, log = sys.argv[1:]
file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def listen(event):
    if event.unit:
        line = json.dumps([event.variant, event.stage, event.done])
        os.write(file, (line + "\\n").encode())

comparison = evalkit.compare(
    "fp32", "fp16", "int8", model=model, text=text, out=out, batch_tokens=256, progress=listen
)
print(dumps(comparison))
"""


class Case:
    """One model and text, and the command on stores of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = tiny.make_llama(folder / "model")
        self.text = folder / "text.txt"
        self.text.write_text(tiny.documents(1, 30), encoding="utf-8")
        (folder / "run.py").write_text(SCRIPT, encoding="utf-8")

    def start(self, out: Path) -> subprocess.Popen[str]:
        command = [
            sys.executable, str(self.folder / "run.py"), str(self.model), str(self.text),
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

    def steps(self, out: Path) -> Counter[str]:
        return Counter(Path(f"{out}.log").read_text(encoding="utf-8").splitlines())


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="module")
def undisturbed(case: Case) -> tuple[dict[str, Any], Counter[str], float]:
    begun = time.monotonic()
    values = case.finish(case.folder / "undisturbed")
    return values, case.steps(case.folder / "undisturbed"), time.monotonic() - begun


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill_repeatedly(
    case: Case, undisturbed: tuple[dict[str, Any], Counter[str], float], name: str, kills: int
) -> None:
    values, expected, seconds = undisturbed
    random_moments = random.Random(kills)
    killed = 0
    begun = 0
    while killed < kills:
        # Each store takes some kills until it is finished; then another one begins.
        out = case.folder / f"{name}-{begun}"
        begun += 1
        here = 0
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
                here += 1
                if killed < kills:
                    continue
            else:
                process.communicate()
            break
        assert case.finish(out) == values
        extra = case.steps(out) - expected
        repeated = sum(count for step, count in extra.items() if '"scoring"' in step)
        assert repeated <= here, extra


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_forty_moments(case: Case, undisturbed: Any) -> None:
    kill_repeatedly(case, undisturbed, "many", 40)


def race(case: Case, values: dict[str, Any], name: str) -> None:
    out = case.folder / name
    both = [case.start(out) for _ in range(2)]
    assert [case.values(process) for process in both] == [values, values]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_races(case: Case, undisturbed: Any) -> None:
    for number in range(20):
        race(case, undisturbed[0], f"race-{number}")


def test_ctrl_c_ends_after_the_batch_and_leaves_nothing_running(
    case: Case, undisturbed: Any
) -> None:
    values, _, _ = undisturbed
    out = case.folder / "interrupted"
    command = [
        sys.executable, "-m", "evalkit", "compare", "fp32", "fp16", "int8", "--model",
        str(case.model), "--text", str(case.text), "--out", str(out), "--batch-tokens", "256",
        "--format", "json",
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
    assert timeless(json.loads(done.stdout)) == values
