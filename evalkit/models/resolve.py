"""From a word to a checkpoint on disk: demo, Phi-3 Small, a hub id, a directory or a GGUF file.

Imports no torch. Nothing is loaded here.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import evalkit
from evalkit.errors import ModelError, unknown
from evalkit.models import hub
from evalkit.models.checkpoint import (
    Checkpoint,
    autogptq_description,
    read_config,
    read_json,
    weight_files,
)
from evalkit.models.identity import Identity, checkpoint_identity
from evalkit.paths import expanded, is_dir, is_file
from evalkit.records import content_hash

ALIASES = {
    "phi-3-small": "microsoft/Phi-3-small-8k-instruct",
    "phi-3-small-128k": "microsoft/Phi-3-small-128k-instruct",
}
DEMO = "demo"
# Architectures that evalkit brings itself, beside those of transformers.
NATIVE = ("phi3small",)
_PACKAGE = Path(evalkit.__file__).parent
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_model(
    ref: str,
    *,
    offline: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    hash_cache: Path | None = None,
) -> Checkpoint:
    """The checkpoint that `ref` names; downloads a hub id that is not in the cache.

    Raises ModelError (or UsageError for a word that names nothing) in one line: a directory
    without config.json, a missing shard, a truncated file, only pickled weights without
    `allow_pickle`, an architecture that needs remote code without `trust_remote_code`, a hub
    that is out of reach.
    """
    path = _directory(ref)
    if path is None:
        path = hub.download(
            ALIASES.get(ref, ref),
            offline=offline,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )
    config = read_config(path)
    _check_remote_code(path, config, trust_remote_code)
    files = weight_files(path, allow_pickle)
    description = autogptq_description(path, read_json(path / "config.json"))
    described = (*files, description) if description else files
    identity = checkpoint_identity(path, described, hash_cache)
    return Checkpoint(ref, path, config, identity, files)


def resolve_config(ref: str, *, offline: bool = False) -> Checkpoint:
    """The configuration alone, for planning and for random weights: no weight files.

    Phi-3 Small's are part of evalkit, so they need no hub.
    """
    embedded = _PACKAGE / "models" / "configs" / f"{ref}.json"
    if ref in ALIASES and embedded.is_file():
        path, config = embedded.parent, read_json(embedded)
    else:
        path = _directory(ref) or hub.download_config(ALIASES.get(ref, ref), offline=offline)
        config = read_config(path)
    return Checkpoint(ref, path, config, Identity(f"config:{content_hash(config, 64)}"), ())


def repository(ref: str) -> str | None:
    """The hub's name of the model `ref`; None for a directory and for the demo."""
    return None if ref == DEMO or is_dir(expanded(ref)) else ALIASES.get(ref, ref)


def weights_here(ref: str) -> tuple[Path, ...]:
    """The weight files of `ref` where they are on this machine; nothing is fetched or hashed.

    Raises ModelError where they are not.
    """
    path = _directory(ref) or hub.download(
        ALIASES.get(ref, ref), offline=True, allow_pickle=False, trust_remote_code=False
    )
    return weight_files(path, allow_pickle=False)


def is_here(ref: str) -> bool:
    """Whether all weight files of `ref` are on this machine."""
    try:
        weights_here(ref)
    except ModelError:
        return False
    return True


def _directory(ref: str) -> Path | None:
    """The directory that `ref` names, or None for a hub id; raises where it names nothing."""
    if ref == DEMO:
        return _demo_directory()
    if ref in ALIASES:
        return None
    path = expanded(ref)
    if is_dir(path):
        return path
    if is_file(path) and path.suffix.lower() == ".gguf":
        # Not above: it needs torch where the file is not unpacked yet.
        from evalkit.models.gguf.as_checkpoint import as_checkpoint

        return as_checkpoint(path)
    if is_file(path):
        raise ModelError(f"{ref!r} is a file: give the directory that holds it and config.json")
    if _HUB_ID.fullmatch(ref):
        return None
    if "/" in ref or ref.startswith((".", "~")):
        raise ModelError(
            f"no directory {ref!r}: give a checkpoint's directory, a hub id NAMESPACE/NAME, "
            f"{', '.join([DEMO, *ALIASES])}"
        )
    raise unknown("model", ref, [DEMO, *ALIASES, "a directory", "a hub id NAMESPACE/NAME"])


def _demo_directory() -> Path:
    for data in (_PACKAGE / "_data", _PACKAGE.parent / "data"):
        if (data / "demo" / "model").is_dir():
            return data / "demo" / "model"
    raise ModelError(
        "the demo model is not part of this installation: install the evalkit wheel, or run from "
        "a checkout that holds data/demo/model"
    )


def _check_remote_code(path: Path, config: dict[str, Any], trusted: bool) -> None:
    model_type = str(config.get("model_type", ""))
    if not model_type and "auto_map" not in config:
        raise ModelError(f"{path}/config.json names no model_type: give a Hugging Face checkpoint")
    if trusted or _is_native(model_type):
        return
    if "auto_map" in config:
        raise ModelError(
            f"model type {model_type!r} of {path} needs the checkpoint's own Python code: read it, "
            "then allow it with --trust-remote-code"
        )
    raise ModelError(
        f"model type {model_type!r} of {path} is not known to the installed transformers: "
        "upgrade transformers or choose another model"
    )


def _is_native(model_type: str) -> bool:
    if model_type in NATIVE:
        return True
    spec = importlib.util.find_spec("transformers")
    folders = spec.submodule_search_locations if spec is not None else None
    name = model_type.replace("-", "_")
    # Most model types are a folder of transformers: this answers without importing it.
    if name.isidentifier() and any(
        is_dir(Path(folder) / "models" / name) for folder in folders or ()
    ):
        return True
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES
