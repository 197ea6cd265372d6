"""A GPTQ checkpoint made here read by real auto-gptq 0.7.1, and one made there read here.

Perplexity is that of windows of 512 tokens, each given all before it in its window, over the same
token ids, in float32. auto-gptq is archived and needs an environment of its own (about 4 GB):

    python -m venv DIR
    DIR/bin/pip install torch==2.2.2 transformers==4.40.2 'numpy<2' 'accelerate<1' peft==0.10.0 \\
        'pyarrow<18' 'datasets<3' auto-gptq==0.7.1
    python benchmarks/auto_gptq.py --model SMOLLM2-OFFGRID --python DIR/bin/python --text FILE

`--checkpoint` takes one that `evalkit quantize` made before, instead of making it now.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from _common import SHARED, write_results

import evalkit
from evalkit.backends import checkpoint, for_scoring, parse_variant
from evalkit.models.checkpoint import read_config
from evalkit.models.loading import load_tokenizer

VARIANT = "int4@gptq,group_size=64,samples=32,sample_length=256"
WINDOW = 512
# Run in the other environment: DIR IDS MODE, where MODE is "read", or the model to quantize.
OTHER = """
import json, math, sys
import torch
from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig
from auto_gptq.modeling import _base

folder, ids, model = sys.argv[1], json.load(open(sys.argv[2])), sys.argv[3]
plain = {"torch_dtype": torch.float32}
if model != "read":
    config = BaseQuantizeConfig(bits=4, group_size=64, desc_act=False)
    # It refuses to quantize without a card, though all it does runs on a CPU as well.
    asked, torch.cuda.is_available = torch.cuda.is_available, lambda: True
    made = AutoGPTQForCausalLM.from_pretrained(model, config, **plain)
    torch.cuda.is_available = asked
    torch.cuda.synchronize = lambda *_: None
    _base.CUDA_0 = torch.device("cpu")
    samples = [
        {"input_ids": torch.tensor([one]), "attention_mask": torch.ones(1, len(one))}
        for one in ids[:8]
    ]
    made.quantize(samples, use_triton=False, cache_examples_on_gpu=False)
    # safetensors refuses to write the tied head twice.
    made.model.lm_head.weight = torch.nn.Parameter(made.model.lm_head.weight.clone())
    made.model.config.tie_word_embeddings = False
    made.save_quantized(folder, use_safetensors=True)
found = AutoGPTQForCausalLM.from_quantized(
    folder, device="cpu", use_safetensors=True, disable_exllama=True, disable_exllamav2=True,
    **plain,
)
total = tokens = 0
with torch.no_grad():
    for window in ids:
        row = torch.tensor([window])
        logits = found.model(row).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum"))
        tokens += len(window) - 1
config = found.model.config
print(json.dumps({
    "perplexity": math.exp(total / tokens), "tokens": tokens, "rope_theta": config.rope_theta,
    "kernel": type(found.model.model.layers[0].mlp.up_proj).__name__,
}))
"""


def windows(model: Path, text: Path, count: int) -> list[list[int]]:
    """The first `count` windows of the text, as token ids."""
    ids = load_tokenizer(model)(text.read_text(encoding="utf-8"))["input_ids"]
    cut = [ids[start : start + WINDOW] for start in range(0, len(ids), WINDOW)]
    return [window for window in cut if len(window) > 1][:count]


def read_here(model: Path, folder: Path, ids: list[list[int]]) -> dict[str, Any]:
    """Perplexity of the checkpoint as evalkit loads and scores it, unpacked into float32."""
    loaded = checkpoint.load(model, parse_variant(str(folder)), "cpu")
    kernel, scored = loaded.kernel, for_scoring(loaded, "cpu").model
    total = tokens = 0.0
    with torch.inference_mode():
        for window in ids:
            row = torch.tensor([window])
            logits = scored(row).logits[0, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum")
            total, tokens = total + float(loss), tokens + len(window) - 1
    return {"perplexity": math.exp(total / tokens), "tokens": int(tokens), "kernel": kernel}


def read_there(python: Path, folder: Path, ids: Path, model: str = "read") -> dict[str, Any]:
    """What auto-gptq says of the checkpoint `folder`, which it makes first where `model` is one."""
    command = [str(python), "-c", OTHER, str(folder), str(ids), model]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def in_old_names(model: Path, folder: Path) -> Path:
    """The unquantized model with the names that transformers 4 reads."""
    from evalkit.backends._older_readers import write_older_names

    folder.mkdir()
    for file in model.iterdir():
        target = folder / file.name
        if file.name == "config.json":
            target.write_bytes(file.read_bytes())
        else:
            target.symlink_to(file.resolve())
    write_older_names(folder)
    return folder


def result_of(model: Path, here: dict[str, Any], there: dict[str, Any]) -> dict[str, Any]:
    """Both readings of a checkpoint of `model`, and how far their perplexities are apart."""
    layers = read_config(model)["num_hidden_layers"]
    apart = abs(here["perplexity"] / there["perplexity"] - 1)
    return {
        "model": model.name, "layers": layers, "evalkit": here, "auto-gptq": there, "apart": apart
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=SHARED / "models" / "smollm2-offgrid")
    parser.add_argument("--python", type=Path, help="of the environment with auto-gptq 0.7.1")
    parser.add_argument("--text", type=Path, default=SHARED / "data" / "text" / "wiki.test.raw")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--small", type=Path, help="what auto-gptq quantizes; default --model")
    parser.add_argument("--windows", type=int, default=8)
    given = parser.parse_args()
    if given.python is None or not given.model.is_dir():
        print(
            "auto_gptq: left out, it needs --python of an environment with auto-gptq, and --model"
        )
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        ids = windows(given.model, given.text, given.windows)
        (root / "ids.json").write_text(json.dumps(ids))
        here = given.checkpoint
        if here is None:
            here = root / "here"
            source = given.calibration or "self"
            variant = f"{VARIANT},calibration={source}"
            evalkit.quantize(variant, model=given.model, out=here, device="cpu", offline=True)
        ours = read_here(given.model, here, ids)
        theirs = read_there(given.python, here, root / "ids.json")
        result: dict[str, Any] = {
            "windows": [len(window) for window in ids],
            "made_here": result_of(given.model, ours, theirs),
        }
        write_results("auto-gptq", result)
        small = given.small or given.model
        old = in_old_names(small, root / "old")
        made_there = read_there(given.python, root / "there", root / "ids.json", str(old))
        back = read_here(small, root / "there", ids)
        result["made_there"] = result_of(small, back, made_there)
    print(json.dumps(result, indent=2))
    write_results("auto-gptq", result)


if __name__ == "__main__":
    main()
