"""Work in a process of its own, so that memory is truly returned and a crash ends one row.

A forkserver imports torch and transformers once; each child is forked from it in milliseconds.
Where there is none (Windows) each child is a new interpreter, which imports them again.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from evalkit.errors import (
    EvalkitError,
    InterruptedWorkError,
    VariantError,
    in_one_line,
)
from evalkit.progress import Event, Listener

PRELOAD = ["evalkit.running.preload"]
VISIBLE = "CUDA_VISIBLE_DEVICES"
# GPTQModel sets the allocator so where it is imported; every variant is measured under it.
ALLOCATOR = "expandable_segments:True,max_split_size_mb:256,garbage_collection_threshold:0.7"
# Seconds for a child to end after its outcome: a thread of a library may never do so.
GRACE_SECONDS = 10.0

Task = Callable[..., Any]


_stop = threading.Event()


def stop_if_asked() -> None:
    """Called between batches: raises InterruptedWorkError after a first Ctrl-C."""
    if _stop.is_set():
        raise InterruptedWorkError("stopped; run the same command again to go on")


def run_child(task: Task, job: Any, listener: Listener, *, gpu: str | None = None) -> Any:
    """Run `task(job, send)` in a fresh process and return its result.

    The child sees the card that the word `gpu` shows (a UUID; "" for none), which is "cuda" there;
    by default those that this process sees. Events sent by the child reach `listener`. An
    EvalkitError of the child is raised here again; a crash becomes VariantError naming the signal.
    Ctrl-C lets the child finish its batch, then raises InterruptedWorkError; a second Ctrl-C kills
    it.
    """
    context = _context()
    ours, theirs = context.Pipe()
    child = _start(context, task, job, theirs, os.environ.get(VISIBLE) if gpu is None else gpu)
    theirs.close()
    with _counted_interrupts() as interrupts:
        outcome = _listen(ours, child, listener, interrupts)
    child.join(GRACE_SECONDS)
    if child.exitcode is None:
        child.kill()
        child.join()
    ours.close()
    return _result(outcome, child.exitcode)


def _context() -> Any:
    """How processes are started: by the forkserver, or anew where the platform has none."""
    if "forkserver" not in mp.get_all_start_methods():
        return mp.get_context("spawn")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def show_gpu(word: str | None) -> None:
    """Let CUDA, which has not begun in this process, see what CUDA_VISIBLE_DEVICES=`word` shows.

    None shows every card. Cards are counted as NVML counts them.
    """
    if word is None:
        os.environ.pop(VISIBLE, None)
    else:
        os.environ[VISIBLE] = word
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    own = os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ALLOCATOR)
    os.environ.setdefault("PYTORCH_ALLOC_CONF", own)


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


def _start(context: Any, task: Task, job: Any, theirs: Connection, gpu: str | None) -> Any:
    # Unpickled in the child when the card is chosen: to import the task's libraries may look at it.
    work = pickle.dumps((task, job))
    child = context.Process(target=_child, args=(work, theirs, gpu), daemon=False)
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
    ours: Connection, child: Any, listener: Listener, interrupts: list[int]
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
            _stop_after_batch(ours)
        try:
            if not ours.poll(0.2):
                continue
            kind, content = ours.recv()
        except (EOFError, OSError):
            return ("interrupted", None) if interrupts else None
        if kind != "event":
            return kind, content
        listener(content)


def _stop_after_batch(ours: Connection) -> None:
    try:
        ours.send("stop")
    except OSError:
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
        name = _signal_name(-exit_code)
        hint = " (out of memory? smaller --batch-tokens may help)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}; run again to go on"
    return f"its process ended with exit code {exit_code}; run again with --debug"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _child(work: bytes, theirs: Connection, gpu: str | None) -> None:
    show_gpu(gpu)
    signal.signal(signal.SIGINT, lambda *_: _stop.set())
    threading.Thread(target=_obey, args=(theirs,), daemon=True).start()

    def send(event: Event) -> None:
        try:
            theirs.send(("event", event))
        except OSError:
            _stop.set()

    try:
        task, job = pickle.loads(work)
        outcome = ("result", task(job, send))
    except InterruptedWorkError:
        outcome = ("interrupted", None)
    except BaseException as error:
        outcome = ("error", shown_in_one_line(error))
    theirs.send(outcome)


def shown_in_one_line(error: BaseException) -> EvalkitError:
    """`error` as a row says it; with --debug an unexpected one is printed where it was raised."""
    if os.environ.get("EVALKIT_DEBUG") and not isinstance(error, EvalkitError):
        traceback.print_exception(error)
    return in_one_line(error)


def _obey(theirs: Connection) -> None:
    """Stop after the batch when told to, and end when evalkit is gone: nothing is left running."""
    try:
        while True:
            theirs.recv()
            _stop.set()
    except (EOFError, OSError):
        os._exit(1)
