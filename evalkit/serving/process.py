"""A server that evalkit starts, waits for and stops, whatever happens to evalkit."""

from __future__ import annotations

import os
import shlex
import shutil
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
# Starts the server and ends its process group when the pipe to evalkit closes, which the kernel
# does even where evalkit is killed: there is no moment in which the server runs unguarded.
_GUARD = """
import os, signal, subprocess, sys, threading, time
server = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, start_new_session=True)
def end_with_evalkit():
    os.read(0, 1)
    signal_group(signal.SIGTERM)
    time.sleep(float(sys.argv[1]))
    signal_group(signal.SIGKILL)
def signal_group(number):
    try:
        os.killpg(server.pid, number)
    except OSError:
        pass
threading.Thread(target=end_with_evalkit, daemon=True).start()
code = server.wait()
# What the server started may outlive it.
signal_group(signal.SIGKILL)
os._exit(code if code >= 0 else 128 - code)
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
    try:
        assert process.stdout is not None
        tail = _Log(process.stdout, log)
        _wait(process, address, tail, stop_if_asked)
        yield
    finally:
        # The guard asks the server to end, and kills it after some seconds.
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def _start(command: str) -> subprocess.Popen[bytes]:
    """The guard that runs `command`: it ends with the command's exit code."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ServerError(f"--serve {command!r} cannot be started: {error}") from error
    if not words or shutil.which(words[0]) is None:
        name = words[0] if words else ""
        raise ServerError(f"--serve {command!r} cannot be started: no program {name!r} is found")
    return subprocess.Popen(
        [sys.executable, "-c", _GUARD, str(STOP_SECONDS), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
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
