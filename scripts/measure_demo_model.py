"""Measure the demo model, and write its figures, model card and manifest.

    python scripts/measure_demo_model.py [--keep-figures]

Weights are FP16 on disk and computed with in float32.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from demo_card import card
from demo_scoring import (
    TaskScorer,
    perplexity,
    read_documents,
    read_rows,
    round_to_nearest,
    trigram_perplexity,
)
from demo_training_data import tokenize_documents
from transformers import AutoTokenizer
from world.corpus import documents, head, sentences
from world.ngram import KneserNeyTrigram
from world.tasks import YAML

from evalkit.models.phi3_small import Phi3SmallForCausalLM

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "data" / "demo"
TRIGRAM_DOCUMENTS = (1_000, 2_000, 8_000, 30_000, 120_000)
SAMPLE_DOCUMENTS = 60
SAMPLE_ITEMS = 50
MADE_BY = {
    "model/tokenizer.json": "scripts/make_demo_data.py",
    "model/tokenizer_config.json": "scripts/make_demo_data.py",
    "text/": "scripts/make_demo_data.py",
    "calibration/": "scripts/make_demo_data.py",
    "tasks/": "scripts/make_demo_data.py",
    "prompts/": "scripts/make_demo_data.py",
    "model/": "scripts/train_demo_model.py",
    "recipe.json": "scripts/train_demo_model.py",
    "training_log.jsonl": "scripts/train_demo_model.py",
    "figures.json": "scripts/measure_demo_model.py",
    "README.md": "scripts/measure_demo_model.py",
}


def load_model() -> Phi3SmallForCausalLM:
    return Phi3SmallForCausalLM.from_pretrained(DEMO / "model", dtype=torch.float32).eval()


def trigram(number: int, tokenizer: Any) -> KneserNeyTrigram:
    """The 3-gram model of the first training documents."""
    tokenized = tokenize_documents(tokenizer.backend_tokenizer, head("train", number))
    return KneserNeyTrigram(tokenized.ids, len(tokenizer))


def share_seen(training_documents: int) -> float:
    """Share of the test text's sentences that occur verbatim in the training text."""
    wanted = [
        sentence
        for document in read_documents(DEMO / "text" / "town_test.txt")
        for sentence in sentences(document)
    ]
    unseen = set(wanted)
    for _, document in zip(range(training_documents), documents("train"), strict=False):
        unseen.difference_update(sentences(document))
    return sum(sentence not in unseen for sentence in wanted) / len(wanted)


def measure_text(model: Phi3SmallForCausalLM, tokenizer: Any) -> dict[str, Any]:
    """Perplexity of the whole test text and of its first documents, model and 3-gram."""
    texts = read_documents(DEMO / "text" / "town_test.txt")
    ids = [tokenizer(text)["input_ids"] for text in texts]
    sample = ids[:SAMPLE_DOCUMENTS]
    trigrams = {}
    for number in TRIGRAM_DOCUMENTS:
        baseline = trigram(number, tokenizer)
        trigrams[str(number)] = {
            "test": trigram_perplexity(baseline, ids),
            "sample": trigram_perplexity(baseline, sample),
        }
    return {
        "test_documents": len(ids),
        "test_tokens": sum(map(len, ids)),
        "perplexity": {"test": perplexity(model, ids), "sample": perplexity(model, sample)},
        "trigram_by_training_documents": trigrams,
    }


def measure_tasks(scorer: TaskScorer) -> dict[str, dict[str, float]]:
    """Accuracy on all items of each task and on the first ones."""
    results = {}
    for task in YAML:
        rows = read_rows(DEMO / "tasks" / f"{task}.jsonl")
        right = [float(getattr(scorer, task)(row)) for row in rows]
        results[task] = {
            "items": len(right),
            "all": sum(right) / len(right),
            "sample": sum(right[:SAMPLE_ITEMS]) / SAMPLE_ITEMS,
        }
    return results


def measure() -> dict[str, Any]:
    """All figures of the model card."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "model")
    model = load_model()
    recipe = json.loads((DEMO / "recipe.json").read_text(encoding="utf-8"))
    figures = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sample_documents": SAMPLE_DOCUMENTS,
        "sample_items": SAMPLE_ITEMS,
        **measure_text(model, tokenizer),
        "tasks": measure_tasks(TaskScorer(model, tokenizer)),
        "test_sentences_in_training_text": share_seen(recipe["documents"]),
    }
    round_to_nearest(model)
    texts = read_documents(DEMO / "text" / "town_test.txt")
    ids = [tokenizer(text)["input_ids"] for text in texts]
    figures["int4_round_to_nearest"] = {
        "perplexity": {
            "test": perplexity(model, ids),
            "sample": perplexity(model, ids[:SAMPLE_DOCUMENTS]),
        },
        "tasks": measure_tasks(TaskScorer(model, tokenizer)),
    }
    return figures


def write_manifest() -> None:
    """SHA-256, size, licence and origin of every file but the manifest."""
    files = sorted(path for path in DEMO.rglob("*") if path.is_file())
    entries = []
    for path in files:
        name = path.relative_to(DEMO).as_posix()
        if name != "manifest.json":
            made_by = next(script for start, script in MADE_BY.items() if name.startswith(start))
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            entries.append({
                "path": name, "sha256": digest, "bytes": len(content),
                "licence": "Apache-2.0", "made_by": made_by,
            })  # fmt: skip
    manifest = {"schema": "evalkit.demo/1", "files": entries}
    (DEMO / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep-figures", action="store_true", help="only card and manifest")
    arguments = parser.parse_args()
    if not arguments.keep_figures:
        figures = json.dumps(measure(), indent=2) + "\n"
        (DEMO / "figures.json").write_text(figures, encoding="utf-8")
    (DEMO / "README.md").write_text(card(DEMO), encoding="utf-8")
    write_manifest()


if __name__ == "__main__":
    main()
