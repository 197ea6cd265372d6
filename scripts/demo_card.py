"""The demo model's card, from its configuration, recipe, training log and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TASKS = {
    "demo_where": ("multiple choice", "where is a belonging now, of 4 places", 85),
    "demo_last_word": ("log-likelihood", "the last word of a story", 85),
    "demo_grammar": ("multiple choice", "the right sentence of a minimal pair", 85),
    "demo_sums": ("generation, exact match", "prices, hours and counts, sum written out", 70),
}

CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
<!-- Written by scripts/measure_demo_model.py; every number comes from a file beside this one. -->

# The demo model

Phi-3 Small in miniature: {parameters:,} parameters, trained on generated English about the life of
small towns. It exists so that `evalkit compare` has something real to measure on any machine: it
answers questions about a text it has never seen, and it gets worse when it is quantized. It knows
nothing else. Text, tokenizer, weights and tasks were all made in this project; licence Apache-2.0.

## Shape

{layers} layers of width {hidden}, {heads} query heads on {kv_heads} key/value heads of width
{head_dim}, GEGELU of width {ff}, muP scaling, tied embedding of {vocab} entries, context {context}.
Layers 1 and 3 are block-sparse (blocks of {block}, {local} local blocks, every {stride}th block a
stripe), so attention is sparse beyond {span} tokens; layers 2 and 4 are dense. All linear widths
are multiples of 128. Weights are FP16. The tokenizer is a byte-level BPE with one special token,
`<|endoftext|>` (id 0: begins, ends and pads; nothing is added by itself).

## Figures

Weights as stored, computed in float32; perplexity is exp(Σ nll / Σ tokens) over the
{test_documents} documents of text/town_test.txt ({test_tokens:,} tokens), each by itself after an
end-of-text token.

| | perplexity | to this model's |
|---|---|---|
| this model | {perplexity:.3f} | |
| the same, linear weights rounded to INT4, groups of 128 | {int4:.3f} | × {int4_ratio:.3f} |
{trigrams}

The 3-gram models have modified Kneser-Ney smoothing and are trained on the first documents of the
same training text. More text makes them worse: they learn that the names of the test towns never
occur. The goal is at most 0.7 of the best of them; it is {ratio:.2f}.

| task, {items} items | kind | asked | goal | this model | INT4, nearest |
|---|---|---|---|---|---|
{tasks}

{missed}

{seen:.2%} of the sentences of the test text occur verbatim in the training text.

## Worlds

`scripts/world/` makes towns from a seed: people, belongings, streets, shops, prices. Names
are pairs of words (Anna Harper, the green lamp, Oak Row), and a hash of the pair gives it to
training, calibration or test. So no person, belonging, street or town of the test worlds occurs in
the training text, though each single word does. Calibration text shares no 13 words in a row with
the test text; the tasks come from other test towns than the test text.

## Training

{tokens:,} tokens of a training text of {documents:,} documents, with AdamW in float32, in
{minutes:.0f} minutes ({cpu_minutes:.0f} CPU minutes, {threads}). Seed {seed}; recipe.json has every
setting, training_log.jsonl the course. Three things a reader should know:

- Tokens of answers and last words count {answer_weight:g} times in the loss.
- Rows grow from {first_row} to {last_row} tokens.
- Weights do not begin at random only: layer 0 begins with heads that look one, two and three tokens
  back, and layers 1 to 3 with two heads each that match and copy (`scripts/demo_initialization.py`
  says how and why); attention learns at {attention_share:g} of the rate, so that the first steps do
  not undo them. Begun at random, a model of this size did not learn to look things up in the time.

To make it again:

    python scripts/make_demo_data.py
    python scripts/train_demo_model.py
    python scripts/measure_demo_model.py

## Limits

It speaks of small towns in the templates of its generator and cannot be used for anything else. Its
losses under quantization are those of a {millions:.1f}-million-parameter model, not of a large one.
"""


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _trigram_rows(figures: dict[str, Any]) -> str:
    perplexity = figures["perplexity"]["test"]
    return "\n".join(
        f"| 3-gram, {int(number):,} documents | {entry['test']:.2f} | "
        f"× {entry['test'] / perplexity:.2f} |"
        for number, entry in figures["trigram_by_training_documents"].items()
    )


def _task_rows(figures: dict[str, Any]) -> str:
    int4 = figures["int4_round_to_nearest"]["tasks"]
    return "\n".join(
        f"| {task} | {kind} | {asked} | {goal} % | {100 * figures['tasks'][task]['all']:.1f} % "
        f"| {100 * int4[task]['all']:.1f} % |"
        for task, (kind, asked, goal) in TASKS.items()
    )


def _missed(figures: dict[str, Any]) -> str:
    """A sentence on the goals that are not reached."""
    tasks = figures["tasks"]
    missed = [task for task, (_, _, goal) in TASKS.items() if 100 * tasks[task]["all"] < goal]
    if not missed:
        return "All goals are reached."
    return f"Goals not reached: {', '.join(missed)}."


def card(demo: Path) -> str:
    """The text of README.md."""
    figures, recipe = _read(demo / "figures.json"), _read(demo / "recipe.json")
    config = _read(demo / "model" / "config.json")
    last = json.loads((demo / "training_log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    perplexity = figures["perplexity"]["test"]
    int4 = figures["int4_round_to_nearest"]["perplexity"]["test"]
    best = min(entry["test"] for entry in figures["trigram_by_training_documents"].values())
    threads = recipe["threads"]
    return CARD.format(
        parameters=figures["parameters"],
        millions=figures["parameters"] / 1e6,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["hidden_size"] // config["num_attention_heads"],
        ff=config["ff_intermediate_size"],
        vocab=config["vocab_size"],
        context=config["max_position_embeddings"],
        block=config["blocksparse_block_size"],
        local=config["blocksparse_num_local_blocks"],
        stride=config["blocksparse_vert_stride"],
        span=config["blocksparse_block_size"] * config["blocksparse_num_local_blocks"],
        test_documents=figures["test_documents"],
        test_tokens=figures["test_tokens"],
        perplexity=perplexity,
        int4=int4,
        int4_ratio=int4 / perplexity,
        ratio=perplexity / best,
        trigrams=_trigram_rows(figures),
        tasks=_task_rows(figures),
        items=figures["tasks"]["demo_where"]["items"],
        missed=_missed(figures),
        seen=figures["test_sentences_in_training_text"],
        tokens=recipe["tokens"],
        documents=recipe["documents"],
        minutes=last["seconds"] / 60,
        cpu_minutes=last["cpu_seconds"] / 60,
        threads="1 thread" if threads == 1 else f"{threads} threads",
        seed=recipe["seed"],
        answer_weight=recipe["answer_weight"],
        attention_share=recipe["attention_share"],
        first_row=recipe["phases"][0]["row_tokens"],
        last_row=recipe["phases"][-1]["row_tokens"],
    )
