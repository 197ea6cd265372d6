"""Quantized checkpoints: made once, whole or not at all, found again by what they are made of."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from evalkit import plugins
from evalkit.backends import _mixed
from evalkit.backends._checks import DTYPES
from evalkit.backends._kernels import kernel_for
from evalkit.backends._kv_cache import without_cache
from evalkit.backends._older_readers import write_for_older_readers, write_older_names
from evalkit.backends._parse import spec_of
from evalkit.backends._spec import check_device, check_installed, resolved_options
from evalkit.errors import StoreError, UsageError
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.identity import copy_tokenizer
from evalkit.progress import Event, Listener, ignore
from evalkit.records import Variant, content_hash
from evalkit.store.files import flush

METADATA = "evalkit.json"
SCHEMA = "evalkit.artifact/1"
_UNFINISHED = re.compile(r"\.making-(\d+)-")


@dataclass(frozen=True)
class Calibration:
    """Token ids of the calibration samples, and the identity of the text they come from."""

    samples: Sequence[Sequence[int]]
    identity: str


@dataclass(frozen=True)
class Artifact:
    """A quantized checkpoint on disk and the seconds it took to make."""

    path: Path
    seconds: float


def find_artifact(
    root: Path, checkpoint: Checkpoint, variant: Variant, calibration: str = "", device: str = "cpu"
) -> Artifact | None:
    """The artifact made earlier below `root` of the same content on such a device, or None."""
    return _read(root / artifact_name(checkpoint, variant, calibration, device))


def make_artifact(
    root: Path,
    checkpoint: Checkpoint,
    variant: Variant,
    device: str,
    calibration: Calibration | None = None,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    listener: Listener = ignore,
) -> Artifact:
    """The artifact of `variant`, made if there is none yet.

    It is written beside its place, flushed to disk and renamed, so that no half-made one is ever
    found. Raises VariantError where it cannot be made and StoreError where the disk is full.
    """
    identity = calibration.identity if calibration else ""
    found = find_artifact(root, checkpoint, variant, identity, device)
    if found is not None:
        return found
    remove_unfinished(root)
    return write_checkpoint(
        root / artifact_name(checkpoint, variant, identity, device),
        checkpoint,
        variant,
        device,
        calibration,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        listener=listener,
    )


def write_checkpoint(
    out: Path,
    checkpoint: Checkpoint,
    variant: Variant,
    device: str,
    calibration: Calibration | None = None,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    for_others: bool = False,
    listener: Listener = ignore,
) -> Artifact:
    """Quantize `checkpoint` into the directory `out`, which must not exist or be empty.

    With `for_others` it holds what older tools look for, too, and is larger by a tied head.
    """
    variant = without_cache(variant)
    spec = spec_of(variant)
    if not spec.quantizes:
        raise UsageError(
            f"{variant.text} is not quantized, so there is no checkpoint to write: choose a "
            "variant such as int8 or int4"
        )
    check_installed(spec)
    check_device(spec, device)
    backend = plugins.load("backends", variant.backend)
    backend.check(checkpoint, variant)
    _settle_kernel(checkpoint, variant, device, listener)
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: give a new directory")
    made = _making_directory(out.parent)
    try:
        backend.prepare()
        start = time.perf_counter()
        backend.quantize(
            checkpoint.path,
            variant,
            made,
            device,
            calibration.samples if calibration else None,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
            listener=listener,
        )
        seconds = time.perf_counter() - start
        # What a library writes of a tokenizer lacks the files that only others read.
        copy_tokenizer(checkpoint.path, made)
        if (made / "config.json").is_file():
            write_older_names(made)
            if for_others:
                write_for_older_readers(made)
        _write_metadata(made, checkpoint, variant, device, seconds, calibration)
        for entry in [*made.rglob("*"), made]:
            flush(entry)
        return _put_in_place(made, out, seconds)
    except Exception as error:
        if _is_disk_full(error):
            raise StoreError(f"no space left on the disk of {out.parent}: free some") from error
        raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def artifact_name(
    checkpoint: Checkpoint, variant: Variant, calibration: str = "", device: str = "cpu"
) -> str:
    """Directory name: the method, and a hash of all that makes its weights.

    That is the model, the options, the library, the calibration and the kind of device.
    """
    spec = spec_of(variant)
    applicable = spec.options_for(variant.precision)
    others = {option.name for option in applicable if not (option.identifies and option.makes)}
    options = {k: v for k, v in resolved_options(spec, variant).items() if k not in others}
    content = [
        checkpoint.identity.weights,
        variant.precision,
        spec.name,
        options,
        _versions(variant),
    ]
    content += list(filter(None, [_mixed.identity(variant)]))
    kind = device.partition(":")[0]
    content += [] if kind == "cpu" else [kind]
    return f"{variant.precision}-{spec.name}-{content_hash([*content, calibration])}"


def _settle_kernel(
    checkpoint: Checkpoint, variant: Variant, device: str, listener: Listener
) -> None:
    """Raise VariantError where no kernel will run what is about to be made; tell of a slow one."""
    from evalkit.models.cuda_build import capability
    from evalkit.models.shapes import decoder_shapes

    choice = kernel_for(variant, decoder_shapes(checkpoint), capability(device))
    for note in choice.notes if choice else ():
        listener(Event(variant.label, "", message=note))


def remove_unfinished(root: Path) -> None:
    """Remove what killed processes of this machine left half-made below `root`."""
    for path in root.glob(".making-*"):
        match = _UNFINISHED.match(path.name)
        if match and not psutil.pid_exists(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)


def _making_directory(parent: Path) -> Path:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".making-{os.getpid()}-", dir=parent))
    except OSError as error:
        raise StoreError(f"{parent} cannot be written: {error.strerror}") from error


def _write_metadata(
    path: Path,
    checkpoint: Checkpoint,
    variant: Variant,
    device: str,
    seconds: float,
    calibration: Calibration | None,
) -> None:
    content = {
        "schema": SCHEMA,
        "variant": variant.text,
        "options": resolved_options(spec_of(variant), variant),
        "model": {"name": checkpoint.name, "identity": checkpoint.identity.weights},
        "calibration": None
        if calibration is None
        else {
            "identity": calibration.identity,
            "samples": len(calibration.samples),
            "tokens": sum(len(sample) for sample in calibration.samples),
        },
        "device": device,
        "dtype": _arithmetic(variant, device),
        "seconds": seconds,
        "libraries": _versions(variant),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    (path / METADATA).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _arithmetic(variant: Variant, device: str) -> str:
    """The dtype in which the weights were held while they were quantized."""
    backend = plugins.load("backends", variant.backend)
    if hasattr(backend, "arithmetic"):
        return str(backend.arithmetic(variant, device))
    return DTYPES[str(resolved_options(spec_of(variant), variant)["dtype"])]


def _versions(variant: Variant) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in spec_of(variant).requires}


def _read(path: Path) -> Artifact | None:
    try:
        content = json.loads((path / METADATA).read_text(encoding="utf-8"))
        return Artifact(path, float(content["seconds"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _put_in_place(made: Path, out: Path, seconds: float) -> Artifact:
    # mkdtemp makes a private directory; a checkpoint is as readable as other files.
    made.chmod(0o777 & ~_umask())
    try:
        made.rename(out)
    except OSError as error:
        other = _read(out)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or other is None:
            raise
        # Another process finished the same checkpoint first.
        return other
    return Artifact(out, seconds)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _is_disk_full(error: BaseException) -> bool:
    """Also where a library wraps the operating system's error in its own."""
    return getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
