"""A checkpoint on disk: its configuration, its weight files, whether they are whole.

Imports no torch. Nothing is loaded here; files are checked for presence and wholeness.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import ModelError
from evalkit.models.identity import Identity
from evalkit.models.safetensors_header import read_header
from evalkit.paths import is_file

# Indexes of the largest checkpoints have some 10 MB.
MAX_JSON_BYTES = 64 * 2**20
MOST_REASON = 200
# Sizes beyond every model there is; larger ones would fill the memory before anything is checked.
MOST_OF = {
    "vocab_size": 10**8,
    "hidden_size": 10**6,
    "intermediate_size": 10**7,
    "num_hidden_layers": 10**4,
    "num_attention_heads": 10**5,
    "num_key_value_heads": 10**5,
    "max_position_embeddings": 10**9,
}
# Where models of several parts keep the text model's configuration, and what others call its sizes.
_TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "decoder")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk: its files and its identity, which is their content.

    `path` is a directory with config.json; `weight_files` are its safetensors (or, where allowed,
    pickled) files, none for a model of random weights.
    """

    name: str
    path: Path
    config: dict[str, Any]
    identity: Identity
    weight_files: tuple[Path, ...]

    @property
    def architecture(self) -> str:
        """The first of config.json's architectures, else its model type."""
        return str((self.config.get("architectures") or [self.config.get("model_type", "")])[0])

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight files."""
        return sum(file.stat().st_size for file in self.weight_files)

    @property
    def text_config(self) -> dict[str, Any]:
        """The configuration of the text model: nested where the checkpoint has other parts too."""
        nested = (self.config.get(name) for name in _TEXT_CONFIGS)
        return next((own for own in nested if isinstance(own, dict)), self.config)

    @property
    def positions(self) -> int:
        """Tokens of the longest text that the model takes; 0 where it names no limit."""
        return _number(self.text_config, _POSITIONS)

    @property
    def embedding_rows(self) -> int | None:
        """Rows of the embedding; None where they are not named."""
        named = (config.get("vocab_size") for config in (self.text_config, self.config))
        return next((rows for rows in named if isinstance(rows, int)), None)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states; 0 where it is not named."""
        return _number(self.text_config, _WIDTHS)


def read_config(path: Path) -> dict[str, Any]:
    """config.json of the directory `path`; raises ModelError where it is absent or broken.

    What AutoGPTQ wrote in quantize_config.json alone is its quantization_config.
    """
    file = path / "config.json"
    if not file.is_file():
        raise ModelError(
            f"{path} has no config.json: give the directory of a Hugging Face checkpoint"
        )
    config = read_json(file)
    for name, most in MOST_OF.items():
        value = config.get(name)
        if isinstance(value, (int, float)) and not 0 < value <= most:
            shown = str(value)[:30]
            raise ModelError(
                f"{file} has {name} {shown}: allowed are whole numbers from 1 to {most}"
            )
    description = autogptq_description(path, config)
    if description is None:
        return config
    return config | {"quantization_config": {"quant_method": "gptq"} | read_json(description)}


def autogptq_description(path: Path, config: dict[str, Any]) -> Path | None:
    """AutoGPTQ's quantize_config.json, where config.json itself does not say what was quantized."""
    file = path / "quantize_config.json"
    return file if "quantization_config" not in config and file.is_file() else None


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object of `file`; raises ModelError where it is none."""
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{file} is larger than {MAX_JSON_BYTES} bytes: no {file.name} is")
        content = json.loads(file.read_text(encoding="utf-8"))
        # What JSON can write and a file name, hash or terminal cannot: half a surrogate pair.
        json.dumps(content, ensure_ascii=False).encode()
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        reason = str(error)[:MOST_REASON] or "nested too deeply"
        raise ModelError(f"{file} is not valid JSON: {reason}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds no JSON object: give a Hugging Face checkpoint")
    return content


def weight_files(path: Path, allow_pickle: bool) -> tuple[Path, ...]:
    """The safetensors files of the directory `path`, or the pickled ones where they are allowed.

    Raises ModelError where there are none, or one of them is missing or truncated.
    """
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if single.is_file():
        files: tuple[Path, ...] = (single,)
    elif index.is_file():
        files = _shards(index)
    elif found := autogptq_files(path):
        files = found
    else:
        return _pickled_files(path, allow_pickle)
    for file in files:
        read_header(file)
    return files


def autogptq_files(path: Path) -> tuple[Path, ...]:
    """The weights under the names that AutoGPTQ gave them (gptq_model-4bit-128g); none elsewhere.

    Its description may name another file (`model_file_base_name`).
    """
    description = path / "quantize_config.json"
    named = read_json(description) if description.is_file() else {}
    base = Path(str(named.get("model_file_base_name") or "gptq_model-*")).name
    for index in sorted(path.glob(f"{base}.safetensors.index.json")):
        return _shards(index)
    return tuple(sorted(path.glob(f"{base}.safetensors"))[:1])


def _pickled_files(path: Path, allow_pickle: bool) -> tuple[Path, ...]:
    pickled = sorted([*path.glob("pytorch_model*.bin"), *path.glob("*.pt"), *path.glob("*.pth")])
    if not pickled:
        raise ModelError(
            f"{path} has no weights: model.safetensors or model.safetensors.index.json is expected"
        )
    if not allow_pickle:
        raise ModelError(
            f"{path} has only pickled weights ({pickled[0].name}), which can run code: convert "
            "them to safetensors, or allow them with --allow-pickle"
        )
    single, index = path / "pytorch_model.bin", path / "pytorch_model.bin.index.json"
    if single.is_file():
        return (single,)
    if index.is_file():
        return _shards(index)
    raise ModelError(
        f"{path} holds {pickled[0].name}, but transformers reads only pytorch_model.bin or "
        "pytorch_model.bin.index.json: rename or convert it"
    )


def _shards(index: Path) -> tuple[Path, ...]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no weight_map: download or copy it again")
    names = sorted({str(name) for name in weight_map.values()})
    outside = [name for name in names if Path(name).name != name or "\0" in name]
    if outside:
        raise ModelError(f"{index} names {outside[0]!r}, which is no file beside it")
    missing = [name for name in names if not is_file(index.parent / name)]
    if missing:
        raise ModelError(
            f"{index.parent} lacks {missing[0]} ({len(missing)} of {len(names)} shards missing): "
            "download or copy it again"
        )
    return tuple(index.parent / name for name in names)


def _number(config: dict[str, Any], names: Sequence[str]) -> int:
    """The first of `names` that has a whole number above 0 in `config`, else 0."""
    values = (config.get(name) for name in names)
    return next((v for v in values if isinstance(v, int) and v is not True and v > 0), 0)
