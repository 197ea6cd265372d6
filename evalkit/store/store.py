"""The run directory: one JSON a run, Parquet for raw values, quantized checkpoints, references.

STORE/runs/<id>.json       Run with schema version
STORE/raw/<id>/            tokens.parquet, windows.parquet, tasks/…
STORE/windows/<id>.npz     tokenised windows of a suite
STORE/references/<id>/     the baseline's final hidden states
STORE/artifacts/<id>/      quantized checkpoints
STORE/speculation/<id>.json  speculative decoding, measured and predicted
STORE/sensitivity/<id>.json  Sensitivity, a damage map
STORE/benches/<id>.json    Bench, and a folder of its rounds beside it
STORE/claims/              who works on what
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TypeVar

from evalkit.errors import StoreError
from evalkit.paths import expanded
from evalkit.records import Comparison, Run, from_json, to_json
from evalkit.records.bench import Bench, Speculation
from evalkit.records.sensitivity import Sensitivity
from evalkit.store.files import make_directory, read_json, write_json

T = TypeVar("T")

_NUMBER = re.compile("[0-9]{1,9}")

RUN_SCHEMA = "evalkit.run/1"
BENCH_SCHEMA = "evalkit.stored_bench/1"
COMPARISON_SCHEMA = "evalkit.stored_comparison/1"
SPECULATION_SCHEMA = "evalkit.stored_speculation/1"
SENSITIVITY_SCHEMA = "evalkit.stored_sensitivity/1"


def default_root() -> Path:
    """`$EVALKIT_HOME`, else `~/.cache/evalkit`."""
    home = os.environ.get("EVALKIT_HOME")
    return Path(home) if home else Path.home() / ".cache" / "evalkit"


class Store:
    """A run directory. Opening one for reading creates nothing."""

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = expanded(root) if root is not None else default_root()
        # A path has lost one of the slashes.
        if re.match(r"[a-z0-9]+:/", str(self.root)):
            raise StoreError(
                f"the store {self.root} is no directory: only compare keeps one in an object"
                " store; give a directory with --out"
            )
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"the store {self.root} is a file; give a directory with --out")

    def prepare(self) -> Store:
        """Create the directory and check that it can be written; returns itself."""
        make_directory(self.root)
        probe = self.root / "evalkit-store.json"
        if not probe.exists():
            write_json(probe, {"schema": "evalkit.store/1"})
        if not os.access(self.root, os.W_OK):
            raise StoreError(f"cannot write {self.root}: permission is denied; change --out")
        return self

    def run_file(self, run_id: str) -> Path:
        """Where run `run_id` is stored."""
        return self.root / "runs" / f"{run_id}.json"

    def raw(self, run_id: str) -> Path:
        """Directory of the raw values of run `run_id`."""
        return self.root / "raw" / run_id

    def windows_file(self, key: str) -> Path:
        """Where the tokenised windows `key` are stored."""
        return self.root / "windows" / f"{key}.npz"

    def reference(self, key: str) -> Path:
        """Directory of the baseline reference `key`."""
        return self.root / "references" / key

    def artifacts(self) -> Path:
        """Directory of quantized checkpoints."""
        return self.root / "artifacts"

    def claim_file(self, key: str) -> Path:
        """The claim on the piece of work `key`."""
        return self.root / "claims" / f"{key}.json"

    def save(self, run: Run) -> None:
        """Write a run, whole or not at all."""
        write_json(self.run_file(run.id), {"schema": RUN_SCHEMA, "run": to_json(run)})

    def load(self, run_id: str) -> Run | None:
        """The run `run_id`, or None where it was never made.

        Raises StoreError for a file of a newer schema or of another shape.
        """
        file = self.run_file(run_id)
        return read_run(file) if file.exists() else None

    def runs(self) -> list[Run]:
        """All runs of the store, oldest first; unreadable files are skipped by `evalkit list`."""
        files = sorted((self.root / "runs").glob("*.json"))
        return sorted((read_run(file) for file in files), key=lambda run: run.created)

    def forget(self, run_id: str) -> None:
        """Remove a run and its raw values (for --fresh)."""
        self.run_file(run_id).unlink(missing_ok=True)
        shutil.rmtree(self.raw(run_id), ignore_errors=True)

    def forget_reference(self, key: str) -> None:
        """Remove a baseline's reference (for --fresh)."""
        if key:
            shutil.rmtree(self.reference(key), ignore_errors=True)

    def save_bench(self, bench: Bench, bench_id: str) -> Path:
        """Write a bench; returns the file."""
        file = self.root / "benches" / f"{bench_id}.json"
        write_json(file, {"schema": BENCH_SCHEMA, "bench": to_json(bench)})
        return file

    def save_comparison(self, comparison: Comparison, run_id: str) -> Path:
        """Write a comparison beside its runs; returns the file."""
        file = self.root / "comparisons" / f"{run_id}.json"
        write_json(file, {"schema": COMPARISON_SCHEMA, "comparison": to_json(comparison)})
        return file

    def comparison(self, comparison_id: str) -> Comparison | None:
        """The stored comparison of this id; None where there is none that can be read."""
        file = self.root / "comparisons" / f"{comparison_id}.json"
        try:
            return read_comparison(file) if file.exists() else None
        except StoreError:
            return None

    def comparisons(self) -> list[tuple[Path, Comparison]]:
        """The stored comparisons that can be read with their files, oldest first."""
        files = sorted(
            (self.root / "comparisons").glob("*.json"), key=lambda file: file.stat().st_mtime_ns
        )
        found = ((file, self.comparison(file.stem)) for file in files)
        return [(file, comparison) for file, comparison in found if comparison is not None]

    def save_speculation(self, speculation: tuple[Speculation, ...], key: str) -> Path:
        """Write measured speculative decoding; returns the file."""
        file = self.root / "speculation" / f"{key}.json"
        content = {"speculation": [to_json(one) for one in speculation]}
        write_json(file, {"schema": SPECULATION_SCHEMA, **content})
        return file

    def save_sensitivity(self, found: Sensitivity) -> Path:
        """Write a damage map under its id; returns the file."""
        file = self.root / "sensitivity" / f"{found.id}.json"
        write_json(file, {"schema": SENSITIVITY_SCHEMA, "sensitivity": to_json(found)})
        return file

    def sensitivity(self, sensitivity_id: str) -> Sensitivity | None:
        """The stored damage map of this id; None where there is none that can be read."""
        file = self.root / "sensitivity" / f"{sensitivity_id}.json"
        try:
            return read_sensitivity(file) if file.exists() else None
        except StoreError:
            return None

    def sensitivities(self) -> list[Sensitivity]:
        """The stored damage maps that can be read, oldest first."""
        files = sorted(
            (self.root / "sensitivity").glob("*.json"), key=lambda file: file.stat().st_mtime_ns
        )
        return [one for file in files if (one := self.sensitivity(file.stem)) is not None]


def read_run(file: Path) -> Run:
    """Read one run file; raises StoreError in one line with the fix."""
    return from_schema(file, RUN_SCHEMA, "run", Run)


def read_comparison(file: Path) -> Comparison:
    """Read one stored comparison; raises StoreError in one line with the fix."""
    return from_schema(file, COMPARISON_SCHEMA, "comparison", Comparison)


def read_bench(file: Path) -> Bench:
    """Read one stored bench; raises StoreError in one line with the fix."""
    return from_schema(file, BENCH_SCHEMA, "bench", Bench)


def read_sensitivity(file: Path) -> Sensitivity:
    """Read one stored damage map; raises StoreError in one line with the fix."""
    return from_schema(file, SENSITIVITY_SCHEMA, "sensitivity", Sensitivity)


def from_schema(file: Path, schema: str, key: str, kind: type[T]) -> T:
    """Read record `kind` under `key` from a JSON file that carries `schema` ("name/version")."""
    content = read_json(file)
    found = content.get("schema") if isinstance(content, dict) else None
    name, _, version = schema.partition("/")
    if not isinstance(found, str) or found.partition("/")[0] != name:
        raise StoreError(f"{file} has schema {found!r}: needed is {schema!r}; delete the file")
    their = found.partition("/")[2]
    if not _NUMBER.fullmatch(their) or int(their) > int(version):
        raise StoreError(
            f"{file} has schema {found!r}, newer than {schema!r}: upgrade evalkit"
            " (pip install --upgrade evalkit) or choose another --out"
        )
    try:
        return from_json(kind, content[key])
    except (
        KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError
    ) as error:  # fmt: skip
        raise StoreError(
            f"{file} is not a whole {key} ({type(error).__name__}: {error}); delete the file"
        ) from error
