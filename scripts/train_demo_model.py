"""Train the demo model: Phi-3 Small in miniature, on the life of a small town.

    python scripts/make_demo_data.py            # tokenizer, texts, tasks
    python scripts/train_demo_model.py          # the weights, under an hour of one idle CPU
    python scripts/measure_demo_model.py        # figures, model card, manifest

A run continues from its last checkpoint; the same seed and the same interruptions give the same
batches. Rows grow from 96 to 1024 tokens.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from demo_initialization import initialize
from demo_training_data import TokenizedDocuments, load_documents, row_batches
from tokenizers import Tokenizer
from torch import nn
from tqdm import tqdm

from evalkit.models.phi3_small import Phi3SmallConfig, Phi3SmallForCausalLM

ROOT = Path(__file__).resolve().parents[1]
MODEL_DIRECTORY = ROOT / "data" / "demo" / "model"


@dataclass(frozen=True)
class Phase:
    """Rows of one length, up to a share of the run."""

    until: float
    row_tokens: int
    batch: int


PHASES = (Phase(0.1, 96, 22), Phase(0.6, 192, 11), Phase(0.93, 256, 10), Phase(1.0, 1024, 3))


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    tokens: int = 6_500_000
    documents: int = 120_000
    seed: int = 0
    answer_weight: float = 4.0
    peak_rate: float = 1.5e-3
    # Attention begins with heads that work; at the full rate the first steps would undo them.
    attention_share: float = 0.2
    weight_decay: float = 0.1
    warmup_steps: int = 40
    decay_from: float = 0.6
    clip: float = 1.0


def demo_config(vocab_size: int = 2944) -> Phi3SmallConfig:
    """Phi-3 Small in miniature: every width a multiple of 128, sparsity beyond 256 tokens."""
    return Phi3SmallConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        ff_intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rope_embedding_base=10_000.0,
        mup_width_multiplier=2.0,
        mup_embedding_multiplier=4.0,
        mup_attn_multiplier=8.0,  # the root of head_dim: scores at the usual scale
        blocksparse_block_size=16,
        blocksparse_num_local_blocks=16,
        blocksparse_vert_stride=4,
        embedding_dropout_prob=0.0,
        ffn_dropout_prob=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )


class Trainer:
    """The model, its optimizer and how far the run is."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.model = Phi3SmallForCausalLM(demo_config()).train()
        initialize(self.model, recipe.seed)
        parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in self.model.named_parameters():
            parts["self_attn" in name].append(parameter)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": parts[False], "share": 1.0},
                {"params": parts[True], "share": recipe.attention_share},
            ],
            lr=recipe.peak_rate,
            betas=(0.9, 0.98),
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.step = self.tokens = 0
        self.seconds = self.cpu_seconds = 0.0

    def rate(self) -> float:
        """Share of the peak learning rate: warm-up, plateau, linear decay to 2 %."""
        share = self.tokens / self.recipe.tokens
        warm = min(1.0, (self.step + 1) / self.recipe.warmup_steps)
        return warm * max(0.02, min(1.0, (1 - share) / (1 - self.recipe.decay_from)))

    def update(self, ids: torch.Tensor, answers: torch.Tensor) -> float:
        """One step on (batch, length) tokens; returns the weighted mean loss in nats."""
        logits = self.model(ids[:, :-1], use_cache=False).logits
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        weights = 1.0 + (self.recipe.answer_weight - 1.0) * answers[:, 1:].flatten().float()
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.peak_rate * self.rate() * group["share"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.tokens += ids.numel()
        return float(loss.detach())

    def save(self, file: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "counters": (self.step, self.tokens, self.seconds, self.cpu_seconds),
        }
        torch.save(state, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)

    def load(self, file: Path) -> None:
        state = torch.load(file)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.tokens, self.seconds, self.cpu_seconds = state["counters"]


def batches(
    documents: TokenizedDocuments, trainer: Trainer
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of the phase the run is in; seeded by step, so that a resumed run goes on anew."""
    current: Phase | None = None
    while trainer.tokens < trainer.recipe.tokens:
        share = trainer.tokens / trainer.recipe.tokens
        phase = next(phase for phase in PHASES if share < phase.until)
        if phase != current:
            current = phase
            seed = trainer.recipe.seed * 1_000_003 + trainer.step
            source = row_batches(documents, phase.row_tokens, phase.batch, seed)
        positions = next(source)
        ids = torch.from_numpy(documents.ids[positions].astype(np.int64))
        yield ids, torch.from_numpy(documents.answers[positions])


def train(trainer: Trainer, documents: TokenizedDocuments, work: Path, save_every: float) -> None:
    """Run to the end of the recipe, logging every 25 steps and saving every few minutes."""
    bar = tqdm(total=trainer.recipe.tokens, initial=trainer.tokens, unit="tok", unit_scale=True)
    clock, cpu_clock, saved = time.monotonic(), time.process_time(), time.monotonic()
    losses: list[float] = []
    with (work / "training_log.jsonl").open("a", encoding="utf-8") as log:
        for ids, answers in batches(documents, trainer):
            losses.append(trainer.update(ids, answers))
            bar.update(ids.numel())
            if trainer.step % 25 == 0:
                trainer.seconds += time.monotonic() - clock
                trainer.cpu_seconds += time.process_time() - cpu_clock
                clock, cpu_clock = time.monotonic(), time.process_time()
                log.write(json.dumps(_record(trainer, losses, ids.shape[1])) + "\n")
                log.flush()
                bar.set_postfix(loss=f"{np.mean(losses):.3f}")
                losses.clear()
            if time.monotonic() - saved > save_every:
                trainer.save(work / "checkpoint.pt")
                saved = time.monotonic()
    trainer.save(work / "checkpoint.pt")


def _record(trainer: Trainer, losses: list[float], row_tokens: int) -> dict[str, float | int]:
    return {
        "step": trainer.step,
        "tokens": trainer.tokens,
        "row_tokens": row_tokens,
        "weighted_loss": round(float(np.mean(losses)), 4),
        "rate": round(trainer.rate(), 4),
        "seconds": round(trainer.seconds, 1),
        "cpu_seconds": round(trainer.cpu_seconds, 1),
    }


def export(trainer: Trainer, directory: Path, work: Path) -> None:
    """Write FP16 weights, configuration, recipe and log; the tokenizer lies there already."""
    model = Phi3SmallForCausalLM(demo_config())
    model.load_state_dict(trainer.model.state_dict())
    model.to(torch.float16).save_pretrained(directory)
    (directory.parent / "training_log.jsonl").write_bytes(
        (work / "training_log.jsonl").read_bytes()
    )
    recipe = {**asdict(trainer.recipe), "phases": [asdict(phase) for phase in PHASES]}
    recipe["threads"] = torch.get_num_threads()
    (directory.parent / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "demo", help="checkpoints")
    parser.add_argument("--out", type=Path, default=MODEL_DIRECTORY)
    parser.add_argument("--tokenizer", type=Path, default=MODEL_DIRECTORY)
    parser.add_argument("--tokens", type=int, default=Recipe.tokens)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--save-every", type=float, default=120.0, help="seconds")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(tokens=arguments.tokens, seed=arguments.seed)
    tokenizer = Tokenizer.from_file(str(arguments.tokenizer / "tokenizer.json"))
    documents = load_documents(tokenizer, recipe.documents, recipe.seed, arguments.work)
    trainer = Trainer(recipe)
    if (arguments.work / "checkpoint.pt").exists():
        trainer.load(arguments.work / "checkpoint.pt")
    train(trainer, documents, arguments.work, arguments.save_every)
    export(trainer, arguments.out, arguments.work)


if __name__ == "__main__":
    main()
