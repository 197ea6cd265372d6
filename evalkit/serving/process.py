"""A server that evalkit starts, waits for and stops, whatever happens to evalkit."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from evalkit.errors import UsageError
from evalkit.serving.http import Address, ServerError, call

START_SECONDS = 1800.0
STOP_SECONDS = 15.0
MOST_LOG = 8 * 2**20
# What a server, or the proxy before it, answers while the model is loaded.
_LOADING = (502, 503, 504)
# Runs beside the server and ends its process group when the pipe to evalkit closes, which the
# kernel does even where evalkit is killed.
_GUARD = """
import os, signal, sys, time
sys.stdin.buffer.read()
group = int(sys.argv[1])
for number, wait in ((signal.SIGTERM, float(sys.argv[2])), (signal.SIGKILL, 0)):
    try:
        os.killpg(group, number)
        end = time.monotonic() + wait
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(0.1)
    except OSError:
        break
"""


@contextmanager
def served(
    command: str, address: Address, log: Path, stop_if_asked: Callable[[], None]
) -> Iterator[None]:
    """Run the server `command` while the block runs; no command means that it is there already.

    The command is split into words as a shell would, and run without one. Its output goes to the
    file `log`, of which the first 8 MB are kept. Raises UsageError where something answers at the
    address already or the platform has no process groups, ServerError with the log's last line
    where the command dies or is not ready in half an hour.
    """
    if not command:
        yield
        return
    if not hasattr(os, "killpg"):
        raise UsageError(
            "--serve starts and ends servers on Linux and macOS only: start the server yourself and"
            " omit --serve, or use evalkit in WSL2"
        )
    if _answers(address):
        raise UsageError(f"something answers at {address.url} already: stop it, or omit --serve")
    log.parent.mkdir(parents=True, exist_ok=True)
    process = _start(command)
    guard = _guard(process.pid)
    try:
        assert process.stdout is not None
        tail = _Log(process.stdout, log)
        _wait(process, address, tail, stop_if_asked)
        yield
    finally:
        _stop(process)
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


def _start(command: str) -> subprocess.Popen[bytes]:
    try:
        words = shlex.split(command)
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError, IndexError) as error:
        raise ServerError(f"--serve {command!r} cannot be started: {error}") from error


def _guard(group: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", _GUARD, str(group), str(STOP_SECONDS)]
    return subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


class _Log:
    """Copies a server's output into a file of bounded size and remembers its last line."""

    def __init__(self, output: IO[bytes], file: Path) -> None:
        self.last = ""
        self.file = file
        self._thread = threading.Thread(target=self._copy, args=(output,), daemon=True)
        self._thread.start()

    def finish(self) -> str:
        """The last line, once the server is gone."""
        self._thread.join(timeout=2)
        return self.last

    def _copy(self, output: IO[bytes]) -> None:
        left = MOST_LOG
        with self.file.open("wb") as file:
            for line in iter(lambda: output.readline(65536), b""):
                if line.strip():
                    self.last = line.decode("utf-8", "replace")
                file.write(line[:left])
                file.flush()
                left -= min(left, len(line))


def _wait(
    process: subprocess.Popen[bytes],
    address: Address,
    log: _Log,
    stop_if_asked: Callable[[], None],
) -> None:
    end = time.monotonic() + START_SECONDS
    while not _answers(address):
        stop_if_asked()
        if process.poll() is not None:
            said = address.shown(log.finish()) or "it said nothing"
            raise ServerError(
                f"the --serve command ended with exit code {process.returncode}: {said}"
                f" (all of it: {log.file})"
            )
        if time.monotonic() > end:
            raise ServerError(
                f"the --serve command is not ready after {START_SECONDS:g} s: "
                f"{address.shown(log.last)} (all of it: {log.file})"
            )
        time.sleep(0.25)


def _answers(address: Address) -> bool:
    """Whether something answers at the address that does not say it is still loading."""
    quick = Address(address.url, address.key_variable, seconds=min(5.0, address.seconds))
    try:
        call(quick, "/models")
    except ServerError as error:
        return error.status not in (0, *_LOADING)
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group: asked first, killed after some seconds."""
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=seconds)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()
    # What the server started may outlive it.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
