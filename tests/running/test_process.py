import multiprocessing
import os
import signal
import threading
import time

import pytest

from evalkit.errors import InterruptedWorkError, OutOfMemoryError, StoreError, VariantError
from evalkit.progress import Event, ignore
from evalkit.running import process
from evalkit.running.process import run_child, stop_if_asked


def _answer(job: int, send: object) -> tuple[int, int]:
    return job + 1, os.getpid()


def _fail(job: str, send: object) -> None:
    if job == "known":
        raise StoreError("the store is full")
    if job == "memory":
        raise MemoryError
    if job == "unknown":
        raise ZeroDivisionError("a division\nwith two lines")
    os.kill(os.getpid(), signal.SIGKILL)


def _until_stopped(job: float, send: object) -> None:
    send(Event("v", "working"))  # type: ignore[operator]
    end = time.monotonic() + job
    while time.monotonic() < end:
        time.sleep(0.01)
        stop_if_asked()


def test_the_result_comes_from_another_process() -> None:
    value, pid = run_child(_answer, 1, ignore)
    assert value == 2 and pid != os.getpid()


@pytest.mark.parametrize(
    ("job", "kind", "text"),
    [
        ("known", StoreError, "the store is full"),
        ("memory", OutOfMemoryError, "out of memory"),
        ("unknown", VariantError, "ZeroDivisionError: a division"),
        ("killed", VariantError, "ended by SIGKILL"),
    ],
)
def test_what_ends_a_child_is_one_line_here(job: str, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        run_child(_fail, job, ignore)
    assert "\n" not in str(caught.value)


def test_the_first_interrupt_stops_between_batches() -> None:
    messages: list[str] = []

    def listen(event: Event) -> None:
        messages.append(event.message)
        if event.stage == "working":
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    start = time.monotonic()
    with pytest.raises(InterruptedWorkError, match="run the same command again"):
        run_child(_until_stopped, 60.0, listen)
    assert time.monotonic() - start < 30
    assert any("stopping after this batch" in message for message in messages)


def _leave_a_thread(job: float, send: object) -> int:
    threading.Thread(target=time.sleep, args=(job,), daemon=False).start()
    return os.getpid()


def test_a_child_that_a_thread_keeps_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its outcome is here, and the next variant needs its memory."""
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.1)
    pid = run_child(_leave_a_thread, 600.0, ignore)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (63, "signal 63")])
def test_every_signal_has_a_name(number: int, name: str) -> None:
    with pytest.raises(VariantError, match=f"ended by {name}"):
        process._result(None, -number)


def test_where_nothing_is_forked_a_new_interpreter_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    monkeypatch.delattr(os, "kill")
    with pytest.raises(StoreError, match="the store is full"):
        run_child(_fail, "known", ignore)
    value, pid = run_child(_answer, 1, ignore)
    assert value == 2 and pid != os.getpid()
    assert type(process._context()).__name__ == "SpawnContext"
