"""The demo data: what the manifest says, and the figures of the model card, recomputed."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from world import corpus
from world.tasks import YAML, task_rows

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "data" / "demo"
TASKS = ("demo_where", "demo_last_word", "demo_grammar", "demo_sums")


@pytest.fixture(scope="module", autouse=True)
def scripts_importable() -> Any:
    sys.path.insert(0, str(ROOT / "scripts"))
    yield
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DEMO / "figures.json").read_text())
    return content


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    import evalkit.models.phi3_small  # noqa: F401 - registers the architecture

    return AutoTokenizer.from_pretrained(DEMO / "model")


@pytest.fixture
def model() -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    import evalkit.models.phi3_small  # noqa: F401 - registers the architecture

    return AutoModelForCausalLM.from_pretrained(DEMO / "model", dtype=torch.float32).eval()


def documents(name: str) -> list[str]:
    return (DEMO / name).read_text().rstrip("\n").split(f"\n{corpus.SEPARATOR}\n")


def test_the_prompts_are_items_of_the_tasks_with_their_answers() -> None:
    from make_demo_data import prompt_rows

    from evalkit.texts.prompts import load_prompts

    prompts = load_prompts("demo")
    assert [one.text for one in prompts] == [row["prompt"] for row in prompt_rows()]
    assert len(prompts) == 60
    (pillow,) = [one for one in prompts if one.text.endswith("finds the ancient pillow in the")]
    assert re.search(pillow.reference, " dungeon. So")


def test_the_manifest_lists_every_file_with_its_hash_and_size() -> None:
    manifest = json.loads((DEMO / "manifest.json").read_text())
    listed = {entry["path"]: entry for entry in manifest["files"]}
    present = {path.relative_to(DEMO).as_posix() for path in DEMO.rglob("*") if path.is_file()}
    assert set(listed) == present - {"manifest.json"}
    for name, entry in listed.items():
        content = (DEMO / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest(), name
        assert entry["bytes"] == len(content)
        assert entry["licence"] == "Apache-2.0"
        assert (ROOT / entry["made_by"]).is_file()


def test_sizes_stay_within_bounds() -> None:
    assert (DEMO / "model" / "model.safetensors").stat().st_size <= 20_000_000
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) < 25_000_000


def test_the_texts_are_what_the_generator_writes() -> None:
    test = documents("text/town_test.txt")
    assert test == corpus.head("test", len(test))
    calibration = documents("calibration/town_calibration.txt")
    clean = corpus.without_overlap(corpus.documents("calibration"), test)
    assert calibration == [text for _, text in zip(calibration, clean, strict=False)]


def test_no_thirteen_words_of_the_calibration_text_occur_in_the_test_text() -> None:
    test = set().union(*(corpus.word_ngrams(text) for text in documents("text/town_test.txt")))
    for text in documents("calibration/town_calibration.txt"):
        assert test.isdisjoint(corpus.word_ngrams(text))


@pytest.mark.parametrize("task", TASKS)
def test_the_task_files_are_what_the_generator_writes(task: str) -> None:
    rows = [json.loads(line) for line in (DEMO / "tasks" / f"{task}.jsonl").read_text().split("\n")
            if line]  # fmt: skip
    assert len(rows) == 500
    assert rows == task_rows(task, 500)
    assert (DEMO / "tasks" / f"{task}.yaml").read_text() == YAML[task]


def test_the_tokenizer_adds_nothing_pads_left_and_loses_nothing(tokenizer: Any) -> None:
    text = documents("text/town_test.txt")[0]
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.all_special_ids == [0]
    assert 0 not in ids
    assert tokenizer.padding_side == "left"
    assert len(tokenizer) == 2944
    assert tokenizer("grüße 你好")["input_ids"]
    assert tokenizer.is_fast


def test_the_architecture_is_phi_3_small_in_miniature(model: Any, figures: Any) -> None:
    import torch

    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert all(m.in_features % 128 == 0 and m.out_features % 128 == 0 for m in linear)
    config = model.config
    assert config.model_type == "phi3small"
    assert config.mup_use_scaling and config.tie_word_embeddings
    assert config.num_key_value_heads < config.num_attention_heads
    assert [config.is_dense(layer) for layer in range(2)] == [False, True]
    local_span = config.blocksparse_block_size * config.blocksparse_num_local_blocks
    assert local_span < config.max_position_embeddings == 1024
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == figures["parameters"]
    assert 3e6 <= parameters <= 8e6


def test_the_weights_are_float16() -> None:
    import torch
    from safetensors import safe_open

    with safe_open(DEMO / "model" / "model.safetensors", "pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    assert all(torch.isfinite(tensor).all() for tensor in tensors)


def test_the_card_states_the_recorded_figures(figures: Any) -> None:
    card = (DEMO / "README.md").read_text()
    assert f"{figures['perplexity']['test']:.3f}" in card
    for task in TASKS:
        assert f"{100 * figures['tasks'][task]['all']:.1f} %" in card
    for entry in figures["trigram_by_training_documents"].values():
        assert f"{entry['test']:.2f}" in card


def test_the_model_knows_its_world(figures: Any) -> None:
    best = min(entry["test"] for entry in figures["trigram_by_training_documents"].values())
    assert figures["perplexity"]["test"] <= 0.7 * best
    goals = {"demo_where": 0.85, "demo_last_word": 0.85, "demo_grammar": 0.85, "demo_sums": 0.7}
    for task, goal in goals.items():
        assert figures["tasks"][task]["all"] >= goal
    assert figures["test_sentences_in_training_text"] < 0.05
    int4 = figures["int4_round_to_nearest"]["perplexity"]["test"]
    assert int4 > figures["perplexity"]["test"]


@pytest.mark.slow
def test_perplexities_recomputed_on_the_first_documents(
    model: Any, tokenizer: Any, figures: Any
) -> None:
    from demo_scoring import perplexity, round_to_nearest, trigram_perplexity
    from measure_demo_model import trigram

    texts = documents("text/town_test.txt")[: figures["sample_documents"]]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    found = perplexity(model, ids)
    assert found == pytest.approx(figures["perplexity"]["sample"], rel=1e-3)
    recorded = figures["trigram_by_training_documents"]["8000"]["sample"]
    baseline = trigram_perplexity(trigram(8000, tokenizer), ids)
    assert baseline == pytest.approx(recorded, rel=1e-6)
    assert found <= 0.7 * baseline
    round_to_nearest(model)
    recorded_int4 = figures["int4_round_to_nearest"]["perplexity"]["sample"]
    assert perplexity(model, ids) == pytest.approx(recorded_int4, rel=5e-3)


@pytest.mark.parametrize("task", TASKS)
def test_task_scores_recomputed_on_the_first_items(
    model: Any, tokenizer: Any, figures: Any, task: str
) -> None:
    from demo_scoring import TaskScorer, read_rows

    rows = read_rows(DEMO / "tasks" / f"{task}.jsonl", figures["sample_items"])
    found = TaskScorer(model, tokenizer).accuracy(task, rows)
    # One item may tip over where two sums of floats are almost equal.
    assert abs(found - figures["tasks"][task]["sample"]) <= 1 / len(rows) + 1e-9


def test_lm_eval_runs_the_tasks_and_agrees(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(DEMO / "tasks")  # lm-eval reads data files relative to where it runs
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from demo_scoring import TaskScorer, read_rows
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(DEMO / "tasks"), include_defaults=False)
    results = simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu"),
        tasks=list(TASKS), task_manager=manager, limit=12, bootstrap_iters=0,
        cache_requests=False,
    )["results"]  # fmt: skip
    scorer = TaskScorer(model, tokenizer)
    for task in TASKS:
        metric = "exact_match,strict" if task == "demo_sums" else "acc,none"
        rows = read_rows(DEMO / "tasks" / f"{task}.jsonl", 12)
        assert results[task][metric] == pytest.approx(scorer.accuracy(task, rows)), task
