"""`make fuzz`: every target on COUNT inputs, with limits on time and memory.

    python tests/fuzz/run.py [--count 100000] [--only TARGET] [--atheris SECONDS]

Inputs are mutations of valid ones (mutation.py), the same for the same seed; with --atheris each
target is then fuzzed for so many seconds more, guided by coverage. A traceback, an input that takes
more than 5 seconds, and a process above 1 GB more than at its start are findings: the input is
written to fuzz-findings/ and the exit code is 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

from fuzz.mutation import mutated  # noqa: E402
from fuzz.targets import Target, targets  # noqa: E402

from evalkit.errors import EvalkitError  # noqa: E402

SECONDS, MEMORY = 5, 2**30
FINDINGS = Path("fuzz-findings")


class HangError(Exception):
    """An input took more than SECONDS."""


def one(target: Target, data: bytes) -> BaseException | None:
    """What went wrong with `data`, or None."""
    signal.alarm(SECONDS)
    try:
        target.read(data)
    except EvalkitError as error:
        return None if "\n" not in str(error) else error
    except Exception as error:
        return error
    finally:
        signal.alarm(0)
    return None


def fuzz(name: str, target: Target, count: int) -> int:
    """Run `count` inputs; returns the number of different findings."""
    generator = random.Random(name)
    for seed in target.seeds:  # imports what the target needs before time and memory count
        with suppress(EvalkitError):
            target.read(seed)
    before, begun, found = peak(), time.perf_counter(), set()
    for _ in range(count):
        data = mutated(target.seeds, generator)
        error = one(target, data)
        if error is not None and (kind := _kind(error)) not in found:
            found.add(kind)
            keep(name, data, kind)
    grown = peak() - before
    if grown > MEMORY:
        found.add("memory")
    seconds = time.perf_counter() - begun
    print(
        f"{name:20} {count:7} inputs {seconds:6.0f} s  + {grown / 2**20:4.0f} MiB "
        f" {len(found)} findings",
        flush=True,
    )
    return len(found)


def peak() -> int:
    """High-water mark of this process's memory in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def keep(name: str, data: bytes, kind: str) -> None:
    """Write the input beside what it caused."""
    FINDINGS.mkdir(exist_ok=True)
    digest = hashlib.sha256(data).hexdigest()[:12]
    file = FINDINGS / f"{name.replace(' ', '-')}-{digest}"
    file.write_bytes(data)
    print(f"  {kind}: {file}", flush=True)


def _kind(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame else ""
    return f"{type(error).__name__} at {where}"


def guided(name: str, seconds: int) -> int:
    """Fuzz target `name` with atheris in a process of its own; returns 1 where it finds a fault."""
    limits = [f"-max_total_time={seconds}", f"-timeout={SECONDS}", "-rss_limit_mb=4096"]
    command = [sys.executable, __file__, "--guide", name, *limits, f"-artifact_prefix={FINDINGS}/"]
    FINDINGS.mkdir(exist_ok=True)
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    last = [line for line in done.stderr.splitlines() if line.startswith(("Done", "=="))]
    print(f"{name:20} atheris {last[-1] if last else done.stderr[-300:]}", flush=True)
    return int(done.returncode != 0)


def guide(name: str) -> None:
    """In the child: hand the target to atheris."""
    import atheris

    with atheris.instrument_imports(include=["evalkit"]):
        target = targets()[name]
        # What is imported late is imported now, not within the limit of an input.
        for seed in target.seeds:
            one(target, seed)

    def read(data: bytes) -> None:
        try:
            target.read(data)
        except EvalkitError:
            return

    corpus = FINDINGS / f"corpus-{name.replace(' ', '-')}"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *sys.argv[3:], str(corpus)], read)
    atheris.Fuzz()


def main() -> int:
    """Run what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--only")
    parser.add_argument("--atheris", type=int, default=0, metavar="SECONDS")
    words = parser.parse_args()
    chosen = {n: t for n, t in targets().items() if words.only in (None, n)}
    findings = sum(fuzz(name, target, words.count) for name, target in chosen.items())
    if words.atheris:
        findings += sum(guided(name, words.atheris) for name in chosen)
    return int(findings > 0)


def _late(*_: object) -> None:
    raise HangError


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    faulthandler.enable()
    if sys.argv[1:2] == ["--guide"]:
        guide(sys.argv[2])
        sys.exit(0)
    signal.signal(signal.SIGALRM, _late)
    sys.exit(main())
