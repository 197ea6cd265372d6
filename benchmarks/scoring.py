"""The scoring engine side by side with a bare forward pass and with lm-eval's own backend.

All of them read the same windows of the same text with the same model in one process, in turns:

forward     model(ids).logits over the engine's batches: no statistic is computed
nll         the engine without a reference
baseline    the engine recording the reference on disk
variant     the engine with all divergences from that reference
lm-eval     HFLM.loglikelihood_rolling at its default batch size of 1
lm-eval N   the same with as many windows a batch as the engine has

Goals: baseline over forward ≤ 1.10, variant over forward ≤ 1.25, lm-eval over nll ≥ 2; the peak
memory of a baseline and a variant pass the same within 5 % at 1 and 8 times the text.

    python benchmarks/scoring.py [--repetitions 5] [--tokens 4096] [--only phi-3-80m]

On a machine that does other work, --processor-time uses one thread and its processor time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import SHARED, interleaved, table, write_results
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from evalkit import plugins
from evalkit.scoring.batching import padded_inputs, plan_batches
from evalkit.scoring.engine import score_windows
from evalkit.scoring.reference import Reference, ReferenceWriter
from evalkit.texts.documents import Text
from evalkit.texts.encoding import text_encoder
from evalkit.texts.windows import Windows, make_windows

CONTEXT = 512
BATCH_TOKENS = 1024
WORDS = SHARED / "data" / "text" / "wiki.test.raw"
STORIES = SHARED / "data" / "text" / "tinystories_1000.txt"
NAMES = ("phi-3-80m", "phi-3-80m-bf16", "stories260k")


def phi_3(dtype: torch.dtype) -> PreTrainedModel:
    """A Phi-3 of 81 million random parameters with Phi-3-mini's vocabulary and proportions."""
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=32064,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=15,
        num_attention_heads=8,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return Phi3ForCausalLM(config).to(dtype).eval()


def trained_tokenizer(text: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 32k entries trained on the text itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=32000, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.train([str(text)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


class Case:
    """One model, its text, and the functions that are timed against each other."""

    def __init__(self, name: str, tokens: int, folder: Path) -> None:
        self.name = name
        if name == "stories260k":
            path = SHARED / "models" / "stories260k"
            self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(path)
            stories = STORIES.read_text().split("<|endoftext|>")
            documents = [story.strip() for story in stories]
        else:
            self.model = phi_3(torch.bfloat16 if name.endswith("bf16") else torch.float32)
            self.tokenizer = trained_tokenizer(WORDS)
            documents = [WORDS.read_text()]
        encoder = text_encoder(self.tokenizer)
        self.documents = _cut(documents, encoder.encode, tokens)
        text = Text("text", tuple(self.documents), "")
        self.windows: Windows = make_windows(encoder, [text], "lm-eval", CONTEXT)
        self.variant = _disturbed(self.model)
        self.folder = folder

    def forward(self) -> None:
        plan = plan_batches(self.windows.lengths - 1, BATCH_TOKENS)
        with torch.inference_mode():
            for batch in plan:
                ids, _ = padded_inputs(self.windows, batch, torch.device("cpu"), masked=False)
                _ = self.model(input_ids=ids, use_cache=False).logits

    def nll(self) -> None:
        self._score(self.model, {"nll"})

    def baseline(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        writer = ReferenceWriter.open(self.folder, self.model, self.windows)
        self._score(self.model, {"nll"}, record=writer)
        writer.complete()

    def divergences(self) -> None:
        reference = Reference.open(self.folder, self.variant, self.windows)
        self._score(self.variant, set(plugins.names("statistics")), reference=reference)

    def lm_eval(self, batch_size: int) -> Callable[[], Any]:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM

        harness = HFLM(
            pretrained=self.model,
            tokenizer=self.tokenizer,
            batch_size=batch_size,
            max_length=CONTEXT,
            # Else a tokenizer that adds BOS begins the first window with two of them.
            add_bos_token=False,
            device="cpu",
        )
        requests = [
            Instance("loglikelihood_rolling", {}, (document,), index)
            for index, document in enumerate(self.documents)
        ]

        def rolling() -> list[float]:
            # A progress bar is drawn for every batch, whatever is asked for.
            with contextlib.redirect_stderr(io.StringIO()):
                return harness.loglikelihood_rolling(requests, disable_tqdm=True)

        return rolling

    def functions(self) -> dict[str, Callable[[], Any]]:
        many = BATCH_TOKENS // CONTEXT
        return {
            "forward": self.forward,
            "nll": self.nll,
            "baseline": self.baseline,
            "variant": self.divergences,
            "lm-eval": self.lm_eval(1),
            f"lm-eval {many}": self.lm_eval(many),
        }

    def _score(self, model: PreTrainedModel, statistics: Any, **options: Any) -> None:
        for _ in score_windows(
            model, self.windows, batch_tokens=BATCH_TOKENS, statistics=statistics, **options
        ):
            pass


def _disturbed(model: PreTrainedModel) -> PreTrainedModel:
    """A variant: the weights with noise, as quantization leaves them; same cost as the model."""
    variant = type(model)(model.config).to(model.dtype).eval()
    variant.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, weight in variant.named_parameters():
            if "embed" not in name and "lm_head" not in name:
                weight.add_(0.02 * weight.std() * torch.randn_like(weight))
    return variant


def _cut(documents: list[str], encode: Any, tokens: int) -> list[str]:
    """The first documents of about `tokens` tokens; a single one is cut."""
    kept: list[str] = []
    for document in documents:
        if tokens <= 0:
            break
        words = re.findall(r"\s*\S+", document[: 8 * tokens])
        text = "".join(words[: tokens if len(documents) == 1 else None])
        kept.append(text)
        tokens -= len(encode(text))
    return kept


def measure(name: str, tokens: int, repetitions: int, clock: Callable[[], float]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        case = Case(name, tokens, Path(folder) / "reference")
        functions = case.functions()
        timings = interleaved(functions, repetitions, clock)
        size = sum(f.stat().st_size for f in (Path(folder) / "reference").iterdir())
        rows = (Path(folder) / "reference" / "rows.bin").stat().st_size
    scored = int(case.windows.scored.sum())
    many = next(key for key in functions if key.startswith("lm-eval "))
    parameters = sum(weight.numel() for weight in case.model.parameters())
    head = case.model.get_output_embeddings().weight
    return {
        "parameters": parameters,
        "head_share": round(
            head.numel() / (parameters - case.model.get_input_embeddings().weight.numel()), 3
        ),
        "dtype": str(case.model.dtype).removeprefix("torch."),
        "tokens": scored,
        "windows": len(case.windows),
        "seconds": timings.to_json(),
        "baseline_over_forward": timings.ratio("baseline", "forward"),
        "variant_over_forward": timings.ratio("variant", "forward"),
        "lm_eval_over_nll": timings.ratio("lm-eval", "nll"),
        "lm_eval_batched_over_nll": timings.ratio(many, "nll"),
        "reference_bytes_a_token": rows / scored,
        "reference_head_bytes": size - rows,
        "float16_logits_bytes_a_token": 2 * head.shape[0],
        "nll_difference_from_lm_eval": difference_from_lm_eval(case),
    }


def difference_from_lm_eval(case: Case) -> float:
    """Relative difference of the summed nll: the two must agree, or their times mean nothing."""
    batches = score_windows(case.model, case.windows, batch_tokens=BATCH_TOKENS, statistics={"nll"})
    ours = sum(float(batch.columns["nll"].sum(dtype="float64")) for batch in batches)
    theirs = -sum(case.lm_eval(1)())
    return abs(ours - theirs) / theirs


def peak_memory(times: int) -> dict[str, int]:
    """Peak resident bytes of a process that makes a baseline and a variant pass."""
    command = [sys.executable, __file__, "--memory", str(times)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def memory_pass(times: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        case = Case("phi-3-80m", 5 * BATCH_TOKENS // 4 * times, Path(folder) / "reference")
        before = _status("VmRSS")
        case.baseline()
        case.divergences()
        peak = _status("VmHWM")
    scored = int(case.windows.scored.sum())
    print(json.dumps({"tokens": scored, "peak_bytes": peak, "above_models": peak - before}))


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(key))
    return 1024 * int(line.split()[1])


def show(name: str, found: dict[str, Any]) -> None:
    seconds = found["seconds"]
    rows = [["pass", "seconds", "µs a token", "over forward"]]
    base = seconds["forward"]["median"]
    for key, value in seconds.items():
        median = value["median"]
        micro = 1e6 * median / found["tokens"]
        rows.append([key, f"{median:.3f}", f"{micro:.0f}", f"{median / base:.2f}"])
    table(f"{name}: {found['tokens']:,} tokens in {found['windows']} windows", rows)
    goals = [["ratio within a round", "median", "low", "high", "goal"]]
    for key, goal in (
        ("baseline_over_forward", "≤ 1.10"),
        ("variant_over_forward", "≤ 1.25"),
        ("lm_eval_over_nll", "≥ 2"),
        ("lm_eval_batched_over_nll", "≥ 2"),
    ):
        ratio = found[key]
        goals.append([key, *(f"{ratio[k]:.2f}" for k in ("median", "low", "high")), goal])
    table("", goals)
    print(
        f"  reference: {found['reference_bytes_a_token']:.0f} bytes a token"
        f" ({found['float16_logits_bytes_a_token']:,} as 16-bit logits),"
        f" and once {found['reference_head_bytes']:,} bytes of head"
    )
    print(f"  total nll differs from lm-eval's by {found['nll_difference_from_lm_eval']:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--only", choices=NAMES)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    clock = time.process_time if options.processor_time else time.perf_counter
    if options.processor_time:
        torch.set_num_threads(1)
    if options.memory:
        memory_pass(options.memory)
        return
    for name in [options.only] if options.only else NAMES:
        tokens = options.tokens * (8 if name == "stories260k" else 1)
        found = measure(name, tokens, options.repetitions, clock)
        found |= {"clock": clock.__name__, "torch_threads": torch.get_num_threads()}
        if name == "phi-3-80m":
            found["peak_memory"] = {str(times): peak_memory(times) for times in (1, 8)}
            one, eight = (found["peak_memory"][times]["peak_bytes"] for times in ("1", "8"))
            found["peak_memory_8_over_1"] = eight / one
        show(name, found)
        if "peak_memory" in found:
            print(f"  peak memory at 8 times the text over 1: {found['peak_memory_8_over_1']:.3f}")
        write_results(f"scoring-{name}", found)


if __name__ == "__main__":
    main()
