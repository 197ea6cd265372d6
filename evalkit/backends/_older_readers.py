"""What a written checkpoint says or holds a second time, for tools of transformers 4's time.

transformers 5 renamed `torch_dtype` and gathered `rope_theta` and `rope_scaling` in
`rope_parameters`. A reader that knows the old names only takes its defaults where they are absent,
without a word: 10,000 for SmolLM2's `rope_theta` of 100,000. auto-gptq leaves a tied output head
empty unless the file holds it as well; transformers ties it all the same.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from evalkit.models.checkpoint import read_config
from evalkit.models.safetensors_header import read_header
from evalkit.models.shapes import meta_model

# What stood at the top of config.json and not in `rope_scaling`.
_BESIDE = ("rope_theta", "partial_rotary_factor")
_NO_SCALING = ("rope_type", "type", *_BESIDE)
_LONG = ("longrope", "su")
_ORIGINAL = "original_max_position_embeddings"


def write_for_older_readers(folder: Path) -> None:
    """Add what auto-gptq looks for to a checkpoint that it reads; see `write_tied_head`."""
    if read_config(folder).get("quantization_config", {}).get("quant_method") == "gptq":
        write_tied_head(folder)


def write_older_names(folder: Path) -> None:
    """Add the old names to config.json in `folder`, where transformers 5 reads it as before."""
    before = (folder / "config.json").read_text(encoding="utf-8")
    config = read_config(folder)
    added = with_older_names(config)
    if added == config:
        return
    read = _as_read(folder)
    (folder / "config.json").write_text(json.dumps(added, indent=2) + "\n", encoding="utf-8")
    again = _as_read(folder)
    if read is None or again is None or any(again.get(name) != read[name] for name in read):
        (folder / "config.json").write_text(before, encoding="utf-8")


def with_older_names(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with the names of transformers 4 beside those of transformers 5, nested ones too."""
    found = copy.deepcopy(config)
    for name, part in config.items():
        if name.endswith("_config") and name != "quantization_config" and isinstance(part, dict):
            found[name] = with_older_names(part)
    if isinstance(config.get("dtype"), str):
        found.setdefault("torch_dtype", config["dtype"])
    for name, value in _rope(config.get("rope_parameters")).items():
        found.setdefault(name, value)
    return found


def write_tied_head(folder: Path) -> None:
    """Add a tied output head to the safetensors file that holds the embedding.

    A checkpoint whose head is its own, or is there already, stays as it is.
    """
    from safetensors.torch import load_file, save_file

    embedding, head = _tied(read_config(folder))
    for file in sorted(folder.glob("*.safetensors")) if head else ():
        if embedding not in read_header(file):
            continue
        tensors = load_file(file)
        if head not in tensors:
            save_file(tensors | {head: tensors[embedding].clone()}, file, {"format": "pt"})
            _add_to_index(folder, head, file.name)


def _tied(config: dict[str, Any]) -> tuple[str, str]:
    """Names of the embedding and of the head that is tied to it; empty where none is."""
    model = meta_model(config)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or embedding.weight is not head.weight:
        return "", ""
    names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    return names[id(embedding)], names[id(head)]


def _add_to_index(folder: Path, tensor: str, file: str) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["weight_map"][tensor] = file
        index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _rope(parameters: object) -> dict[str, Any]:
    """What transformers 4 calls the values of `rope_parameters`, one set or one a kind of layer."""
    if not isinstance(parameters, dict):
        return {}
    full, sliding = (parameters.get(f"{kind}_attention") for kind in ("full", "sliding"))
    if isinstance(full, dict):
        found = _rope(full)
        if isinstance(sliding, dict) and "rope_theta" in sliding:
            found["rope_local_base_freq"] = sliding["rope_theta"]
        return found
    found = {name: parameters[name] for name in _BESIDE if parameters.get(name) is not None}
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return found
    scaling = {k: v for k, v in parameters.items() if k not in _NO_SCALING and v is not None}
    if kind in _LONG and _ORIGINAL in scaling:
        found[_ORIGINAL] = scaling.pop(_ORIGINAL)
    # Readers of that time allow no further name beside these.
    return {**found, "rope_scaling": {"type": kind, **scaling}}


def _as_read(folder: Path) -> dict[str, Any] | None:
    """The configuration as transformers reads it; None where it needs code of the checkpoint."""
    from transformers import AutoConfig

    import evalkit.models.phi3_small  # noqa: F401  registers the architecture

    try:
        read: dict[str, Any] = AutoConfig.from_pretrained(folder).to_dict()
    except (OSError, ValueError, KeyError):
        return None
    return _without_type(read)


def _without_type(read: dict[str, Any]) -> dict[str, Any]:
    """What was read, without the old name of `rope_type` beside the new one."""
    found = {k: _without_type(v) if isinstance(v, dict) else v for k, v in read.items()}
    if "rope_type" in found:
        found.pop("type", None)
    return found
