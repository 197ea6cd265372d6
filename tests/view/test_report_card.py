"""The model card section: YAML that hubs read."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from evalkit.errors import EvalkitError
from evalkit.view.report_card import render_model_card
from tests.view import charted

FULL = charted.full()


def test_each_measured_variant_has_an_entry_with_its_results():
    entries = yaml.safe_load(render_model_card(charted.failed(FULL, 1)))["model-index"]
    assert [entry["name"] for entry in entries] == [
        "Phi-3 Small demo fp16", "Phi-3 Small demo int4 GPTQ g128",
    ]  # fmt: skip
    first = entries[1]["results"][0]
    assert first["dataset"] == {
        "name": "demo_where", "type": "demo_where", "args": {"num_few_shot": 0},
    }  # fmt: skip
    value = FULL.rows[2].metrics["demo_where.acc"]
    metric = first["metrics"][0]
    assert metric["type"] == "acc" and metric["value"] == pytest.approx(value.value, abs=1e-6)
    assert metric["name"].startswith(f"acc, n = 500; paired difference to fp16 − "
                                     f"{-100 * value.delta:.2f} [")  # fmt: skip
    assert metric["name"].endswith("] pp: inconclusive")
    assert entries[0]["results"][0]["metrics"][0]["name"] == "acc, n = 500"


def test_texts_have_their_own_results():
    results = yaml.safe_load(render_model_card(FULL))["model-index"][2]["results"]
    texts = {result["dataset"]["name"]: result["metrics"] for result in results[4:]}
    assert list(texts) == list(charted.TEXTS)
    assert [metric["type"] for metric in texts["stories"]] == [
        "perplexity", "kl_divergence_mean", "top1_agreement",
    ]  # fmt: skip
    single = yaml.safe_load(render_model_card(charted.full(texts=1)))["model-index"][0]["results"]
    assert single[-1]["dataset"]["name"] == "town_test"


def test_the_hub_reads_it():
    cards = pytest.importorskip("huggingface_hub.repocard_data")
    content = yaml.safe_load(render_model_card(FULL))["model-index"]
    name, results = cards.model_index_to_eval_results(content[2:])
    assert name == "Phi-3 Small demo int4 GPTQ g128"
    assert {result.metric_type for result in results} >= {"acc", "perplexity"}


def test_names_are_quoted_as_yaml_needs():
    odd = dataclasses.replace(FULL, model=dataclasses.replace(FULL.model, name="a: [b] #c\n- d"))
    name = yaml.safe_load(render_model_card(odd))["model-index"][0]["name"]
    assert name == "a: [b] #c - d fp16"


def test_without_quality_there_is_one_line():
    with pytest.raises(EvalkitError, match=r"^not measured: quality of any variant; [^\n]+$"):
        render_model_card(charted.failed(FULL, 0, 1, 2))
