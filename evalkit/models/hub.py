"""Fetching checkpoints from the Hugging Face hub, and saying what to do where it cannot be reached.

Imports no torch; huggingface_hub is imported when something is fetched.
"""

from __future__ import annotations

import json
import os
import shutil
from fnmatch import fnmatch
from pathlib import Path

from evalkit.errors import ModelError
from evalkit.network import SECONDS, hub_answers

# Other safetensors beside them hold the same weights once more (consolidated.safetensors).
WEIGHTS = ("model*.safetensors", "gptq_model*.safetensors")
_INDEX = "model.safetensors.index.json"
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
CONFIG_AND_TOKENIZER = ("*.json", "*.model", "*.spm", "*.bpe", "*.txt", "*.tiktoken", "*.jinja")


def download(
    repository: str, *, offline: bool, allow_pickle: bool, trust_remote_code: bool
) -> Path:
    """The snapshot directory of `repository`; raises ModelError in one line with the way out."""
    patterns = [*CONFIG_AND_TOKENIZER, *WEIGHTS]
    patterns += PICKLED if allow_pickle else ()
    patterns += ("*.py",) if trust_remote_code else ()
    folder = _snapshot(repository, patterns, offline)
    absent = [name for name in _indexed(folder / _INDEX) if not (folder / name).exists()]
    return _snapshot(repository, absent, offline) if absent else folder


def _indexed(index: Path) -> list[str]:
    """The shards that an index names; none where there is no readable index."""
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def download_config(repository: str, *, offline: bool) -> Path:
    """The snapshot directory with at least config.json of `repository`."""
    return _snapshot(repository, ["config.json"], offline)


def download_bytes(repository: str) -> int:
    """Bytes that `download` fetches of `repository`; raises ModelError where the hub is silent."""
    from huggingface_hub import HfApi

    if not hub_answers():
        raise ModelError(f"the hub does not answer within {SECONDS:g} s")
    try:
        files = HfApi().model_info(repository, files_metadata=True, timeout=2 * SECONDS).siblings
    except Exception as error:
        # The HTTP library's own errors differ between versions of huggingface_hub.
        raise ModelError(f"the hub does not answer ({type(error).__name__})") from error
    patterns = (*CONFIG_AND_TOKENIZER, *WEIGHTS)
    return sum(
        file.size or 0
        for file in files or ()
        if "/" not in file.rfilename and any(fnmatch(file.rfilename, one) for one in patterns)
    )


def cached_bytes(repository: str) -> int:
    """Bytes of `repository` that were fetched before, whole files or not."""
    folder = cache_folder() / f"models--{repository.replace('/', '--')}" / "blobs"
    return sum(file.stat().st_size for file in folder.glob("*"))


def cache_folder() -> Path:
    """Where the hub's files are kept."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that holds `folder`, which may have to be made yet."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    return shutil.disk_usage(there).free


def _snapshot(repository: str, patterns: list[str], offline: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        # Subfolders of a model repository hold other formats (original/, onnx/).
        folder = snapshot_download(
            repository,
            allow_patterns=patterns,
            ignore_patterns=["*/*"],
            local_files_only=offline or not hub_answers(),
        )
    except GatedRepoError as error:
        raise ModelError(
            f"{repository} is gated on the hub: accept its licence there and run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub has no model {repository!r} (or it is private): check the spelling, or run "
            "`hf auth login`"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise _out_of_reach(repository, patterns, offline) from error
    except Exception as error:
        # The HTTP library's own errors differ between versions of huggingface_hub.
        raise _out_of_reach(repository, patterns, offline, type(error).__name__) from error
    return Path(folder)


def _out_of_reach(
    repository: str, patterns: list[str], offline: bool, reason: str = ""
) -> ModelError:
    from huggingface_hub.constants import HF_HUB_CACHE

    off = offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    reason = reason or ("" if off or hub_answers() else f"no answer within {SECONDS:g} s")
    why = "offline was asked for" if off else f"the hub is out of reach{reason and f' ({reason})'}"
    folder = Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    return ModelError(
        f"{repository} is not in the cache {folder} and {why}; looked for {', '.join(patterns)}; "
        f"where there is a network run `hf download {repository} --local-dir DIR`, copy DIR "
        "here and give --model DIR; speed and memory need no download: --weights random"
    )
