"""Who does which piece of work: a claim is a file only one process can create.

Creation with O_EXCL is atomic on local disks and on NFS, where flock is not dependable. The
holder rewrites the file every few seconds; a waiter that sees no change for `STALE_SECONDS` of
its own monotonic clock (never of file times, which differ between machines and jump) or whose
holder is a dead process of the same machine takes the claim over.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from evalkit.store.files import explained, make_directory

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
POLL_SECONDS = 0.2


@contextmanager
def claim(path: Path, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the claim file `path` while the block runs, waiting for another holder to finish.

    `on_wait` is called once with who holds it. Raises StoreError if the file cannot be made.
    """
    make_directory(path.parent)
    token = uuid.uuid4().hex
    _acquire(path, token, on_wait)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, token, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        if _read(path).get("token") == token:
            path.unlink(missing_ok=True)


def _acquire(path: Path, token: str, on_wait: Callable[[str], None] | None) -> None:
    seen, since, told = "", time.monotonic(), False
    while not _create(path, token):
        content = _text(path)
        if content != seen:
            seen, since = content, time.monotonic()
        if _dead(content) or time.monotonic() - since > STALE_SECONDS:
            _break(path, content)
            continue
        if on_wait and not told:
            holder = _parse(content)
            on_wait(f"process {holder.get('pid', '?')} on {holder.get('host', '?')}")
            told = True
        time.sleep(POLL_SECONDS)


def _create(path: Path, token: str) -> bool:
    with explained(path):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(_content(token, 0))
    return True


def _content(token: str, beats: int) -> str:
    holder = {"token": token, "host": socket.gethostname(), "pid": os.getpid(), "beats": beats}
    return json.dumps(holder | {"started": _process_start(os.getpid())})


def _process_start(pid: int) -> str:
    """Start time of a process in clock ticks since boot, so that a reused pid is told apart."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def _beat(path: Path, token: str, stop: threading.Event) -> None:
    beats = 0
    while not stop.wait(BEAT_SECONDS):
        beats += 1
        if _read(path).get("token") != token:
            return
        try:
            path.write_text(_content(token, beats), encoding="utf-8")
        except OSError:
            return


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _parse(content: str) -> dict[str, object]:
    try:
        holder = json.loads(content)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _read(path: Path) -> dict[str, object]:
    return _parse(_text(path))


def _dead(content: str) -> bool:
    holder = _parse(content)
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    if not Path("/proc").is_dir():
        return False
    return not Path(f"/proc/{pid}").exists() or _process_start(pid) != holder.get("started")


def _break(path: Path, content: str) -> None:
    """Take a stale claim away; if another process renewed it meanwhile, put theirs back."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.stale")
    try:
        path.rename(aside)
    except OSError:
        return
    if _text(aside) != content and not path.exists():
        aside.rename(path)
    else:
        aside.unlink(missing_ok=True)
