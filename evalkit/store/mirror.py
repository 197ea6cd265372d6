"""A store in an object store (s3://, gs://, any URL that fsspec opens): a local copy kept in step.

Everything works on the local copy, whose writes are atomic. What is new at the URL is fetched
before, what is new here is sent every half minute and in the end; so a lost machine costs at most
that. A file is sent whole, and each is written by one worker; claims, temporary files and the
unfinished hidden states of a baseline stay here.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from evalkit.errors import StoreError, UsageError
from evalkit.records import content_hash
from evalkit.store.files import TEMPORARY, make_directory, read_json, write_json
from evalkit.store.store import default_root

SEND_SECONDS = 30.0
_KNOWN = ".mirror.json"
_LOCAL = {"claims"}


def is_url(out: object) -> bool:
    """Whether `out` names an object store rather than a directory."""
    return "://" in str(out)


@contextlib.contextmanager
def mirrored(out: Path | str | None) -> Iterator[Path | None]:
    """The directory to work in for the words of `--out`; of a URL, its copy on this machine.

    Raises UsageError for a URL that cannot be opened, StoreError where it cannot be read or
    written.
    """
    if not is_url(out):
        yield None if out is None else Path(str(out))
        return
    mirror = Mirror(str(out))
    mirror.fetch()
    stop = threading.Event()

    def keep_sending() -> None:
        while not stop.wait(SEND_SECONDS):
            # What fails now is tried again, and told in the end.
            with contextlib.suppress(StoreError):
                mirror.send()

    thread = threading.Thread(target=keep_sending, daemon=True)
    thread.start()
    try:
        yield mirror.folder
    finally:
        stop.set()
        thread.join()
        mirror.send()


class Mirror:
    """The local copy of the store at `url`."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        try:
            self._remote, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UsageError(
                f"--out {url} cannot be opened ({reason}): give a directory, or install the package"
                " for it (s3fs for s3://, gcsfs for gs://)"
            ) from error
        self.url = url
        self.folder = make_directory(default_root() / "mirrors" / content_hash(url))

    def fetch(self) -> None:
        """Bring what is new at the URL."""
        known = self._known()
        with self._explained("read"):
            self._remote.invalidate_cache()
            found = self._remote.find(self._root, detail=True)
            for path, info in found.items():
                name = _inside(path, self._root)
                version = _version(info)
                if known.get(name, [None])[0] == version and (self.folder / name).exists():
                    continue
                target = self.folder / name
                make_directory(target.parent)
                temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{target.name}")
                self._remote.get_file(path, str(temporary))
                temporary.replace(target)
                known[name] = [version, *_stamp(target)]
        write_json(self.folder / _KNOWN, known)

    def send(self) -> None:
        """Send what is new here."""
        known = self._known()
        with self._explained("written"):
            for file in self._files():
                name = file.relative_to(self.folder).as_posix()
                with contextlib.suppress(FileNotFoundError):
                    stamp = _stamp(file)
                    if known.get(name, [None, None])[1:] == stamp:
                        continue
                    path = f"{self._root}/{name}"
                    self._remote.makedirs(path.rpartition("/")[0], exist_ok=True)
                    self._remote.put_file(str(file), path)
                    self._remote.invalidate_cache()
                    known[name] = [_version(self._remote.info(path)), *stamp]
        write_json(self.folder / _KNOWN, known)

    def _known(self) -> dict[str, Any]:
        """Version there, size and time here of each file when both were equal."""
        file = self.folder / _KNOWN
        return read_json(file) if file.exists() else {}

    def _files(self) -> Iterator[Path]:
        for file in sorted(self.folder.rglob("*")):
            parts = file.relative_to(self.folder).parts
            unfinished = file.name == "rows.bin" and not (file.parent / "complete.json").exists()
            mine = parts[0] in _LOCAL or file.name.startswith((TEMPORARY, _KNOWN)) or unfinished
            if not mine and file.is_file():
                yield file

    @contextlib.contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # each object store has errors of its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StoreError(
                f"{self.url} cannot be {done} ({reason}): check the address and its credentials;"
                f" what was measured is in {self.folder}"
            ) from error


def _inside(path: str, root: str) -> str:
    """The name of a remote file below `root`; raises StoreError for one that leads elsewhere."""
    name = path[path.index(root) + len(root) :].lstrip("/") if root in path else path
    if not name or ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
        raise StoreError(f"{path!r} is no name of a file of a store: remove it there")
    return name


def _version(info: dict[str, Any]) -> str:
    """What changes when a remote file does, by the names that object stores give it."""
    names = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated", "created")
    return "/".join([str(info.get("size")), *(str(info[n]) for n in names if info.get(n))])


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]
