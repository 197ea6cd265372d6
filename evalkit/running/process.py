"""Work in a process of its own, so that memory is truly returned and a crash ends one row.

A forkserver imports torch and transformers once; each child is forked from it in milliseconds.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any

from evalkit.errors import (
    EvalkitError,
    InterruptedWorkError,
    VariantError,
    in_one_line,
)
from evalkit.progress import Event, Listener

PRELOAD = ["evalkit.running.preload"]

Task = Callable[..., Any]


_stop = threading.Event()


def stop_if_asked() -> None:
    """Called between batches: raises InterruptedWorkError after a first Ctrl-C."""
    if _stop.is_set():
        raise InterruptedWorkError("stopped; run the same command again to go on")


def run_child(task: Task, job: Any, listener: Listener) -> Any:
    """Run `task(job, send)` in a fresh process and return its result.

    Events sent by the child reach `listener`. An EvalkitError of the child is raised here again;
    a crash becomes VariantError naming the signal. Ctrl-C lets the child finish its batch, then
    raises InterruptedWorkError; a second Ctrl-C kills it.
    """
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    receiver, sender = context.Pipe(duplex=False)
    child = _start(context, task, job, sender)
    sender.close()
    with _counted_interrupts() as interrupts:
        outcome = _listen(receiver, child, listener, interrupts)
    child.join()
    receiver.close()
    return _result(outcome, child.exitcode)


@contextmanager
def _counted_interrupts() -> Iterator[list[int]]:
    """Collect Ctrl-C instead of raising in the middle of a message; the list grows by each."""
    interrupts: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    previous = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, previous)


def _start(context: ForkServerContext, task: Task, job: Any, sender: Connection) -> Any:
    # A Ray worker gets another GPU with each task; the forkserver still has the first one's.
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    child = context.Process(target=_child, args=(task, job, sender, gpus), daemon=False)
    with _without_main():
        child.start()
    return child


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep multiprocessing from importing the caller's script or notebook into the child.

    The child needs nothing of it, and a script without an `if __name__` guard would start itself
    again there.
    """
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    for name in kept:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


def _listen(
    receiver: Connection, child: Any, listener: Listener, interrupts: list[int]
) -> tuple[str, Any] | None:
    """Pass events on until the child sends its outcome; None when it ended without one."""
    told = 0
    while True:
        if len(interrupts) > told:
            told = len(interrupts)
            if told > 1:
                child.kill()
                return "interrupted", None
            listener(Event("", "", message="stopping after this batch (Ctrl-C again: at once)"))
            _interrupt(child.pid)
        try:
            if not receiver.poll(0.2):
                continue
            kind, content = receiver.recv()
        except (EOFError, OSError):
            return ("interrupted", None) if interrupts else None
        if kind != "event":
            return kind, content
        listener(content)


def _interrupt(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGINT)
    except ProcessLookupError:
        return


def _result(outcome: tuple[str, Any] | None, exit_code: int | None) -> Any:
    if outcome is None:
        raise VariantError(_death(exit_code))
    kind, content = outcome
    if kind == "interrupted":
        raise InterruptedWorkError("stopped; run the same command again to go on")
    if kind == "error":
        raise content
    return content


def _death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = " (out of memory? smaller --batch-tokens may help)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}; run again to go on"
    return f"its process ended with exit code {exit_code}; run again with --debug"


def _child(task: Task, job: Any, sender: Connection, gpus: str | None) -> None:
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    signal.signal(signal.SIGINT, lambda *_: _stop.set())
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()

    def send(event: Event) -> None:
        try:
            sender.send(("event", event))
        except OSError:
            _stop.set()

    try:
        outcome = ("result", task(job, send))
    except InterruptedWorkError:
        outcome = ("interrupted", None)
    except BaseException as error:
        outcome = ("error", shown_in_one_line(error))
    sender.send(outcome)
    sender.close()


def shown_in_one_line(error: BaseException) -> EvalkitError:
    """`error` as a row says it; with --debug an unexpected one is printed where it was raised."""
    if os.environ.get("EVALKIT_DEBUG") and not isinstance(error, EvalkitError):
        traceback.print_exception(error)
    return in_one_line(error)


def _end_with_parent(parent: int) -> None:
    """End when the forkserver is gone: nothing is left running after a killed evalkit."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
