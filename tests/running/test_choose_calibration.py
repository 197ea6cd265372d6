"""Which text a quantizer is calibrated on where nobody chose one, and what is said of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from evalkit.backends import parse_variant
from evalkit.errors import DataError
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.resolve import resolve_model
from evalkit.progress import Event
from evalkit.running import build_job, calibration, calibration_samples
from evalkit.running.calibration import calibration_identity, choose_calibration
from evalkit.texts.documents import load_text

INT4 = parse_variant("int4,samples=3,sample_length=16")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return resolve_model(str(tiny.make_llama(tmp_path_factory.mktemp("model"))))


@pytest.fixture
def no_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("evalkit.texts.hub.hub_answers", lambda: False)


@pytest.mark.parametrize(
    ("offline", "why"), [(True, "--offline was"), (False, "hub does not give")]
)
def test_without_the_usual_data_set_the_model_writes_its_own(
    checkpoint: Checkpoint, no_data_set: None, offline: bool, why: str
) -> None:
    found, text, note = choose_calibration(INT4, checkpoint, offline=offline)
    assert found.option("calibration", "") == "self" and text is None
    assert found.label == INT4.label
    assert note.startswith(f"{INT4.label} is calibrated on text that the model itself writes")
    assert why in note and calibration.DEFAULT_SOURCE in note and "calibration=FILE" in note


def test_a_text_that_was_asked_for_is_never_replaced(
    checkpoint: Checkpoint, no_data_set: None, tmp_path: Path
) -> None:
    asked = parse_variant(f"int4,calibration={calibration.DEFAULT_SOURCE}")
    with pytest.raises(DataError, match="not in the local cache"):
        choose_calibration(asked, checkpoint, offline=True)
    (tmp_path / "own.txt").write_text("Once upon a time.")
    own = parse_variant(f"int4,calibration={tmp_path / 'own.txt'}")
    variant, text, note = choose_calibration(own, checkpoint, offline=True)
    assert (variant, note) == (own, "") and text is not None
    chosen = parse_variant("int4,calibration=self")
    assert choose_calibration(chosen, checkpoint, offline=True) == (chosen, None, "")


def test_the_usual_data_set_is_named(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "wiki.txt").write_text("A page.")
    page = load_text(str(tmp_path / "wiki.txt"))
    monkeypatch.setattr(calibration, "load_text", lambda *_, **__: page)
    variant, text, note = choose_calibration(INT4, checkpoint, offline=False)
    assert (variant, text) == (INT4, page)
    assert "WikiText-2's training split" in note


def test_the_identity_tells_own_text_from_any_other(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A page.")
    page = load_text(str(tmp_path / "a.txt"))
    made = {calibration_identity(text, seed, "tok") for text in (page, None) for seed in (0, 1)}
    assert len(made) == 4


def test_the_job_has_the_choice_and_its_note(
    checkpoint: Checkpoint, no_data_set: None, tmp_path: Path
) -> None:
    from evalkit.declaration import resolved
    from evalkit.options import CompareOptions

    told: list[Event] = []
    options = resolved(
        CompareOptions,
        {"model": str(checkpoint.path), "out": tmp_path, "device": "cpu", "offline": True},
    )
    subject = build_job.resolve_subject(options)
    job = build_job.build_job(subject, parse_variant("int4"), send=told.append)
    # The widths are 64 and 96.
    assert job.variant.text == "int4@gptq,calibration=self,group_size=32"
    assert not job.refusal and job.calibration
    assert [event.message for event in told] == list(job.notes)
    assert "int4 is int4@gptq,group_size=32 here" in job.notes[0]
    assert "text that the model itself writes" in job.notes[1]


OWN = "int4,calibration=self,samples=3"


def samples(
    checkpoint: Checkpoint,
    told: list[Event],
    word: str = f"{OWN},sample_length=16",
    **changed: Any,
) -> Any:
    words = {
        "seed": 0, "offline": True, "allow_pickle": False, "trust_remote_code": False,
        "send": told.append,
    }  # fmt: skip
    variant = parse_variant(word)
    return calibration_samples.calibration_samples(checkpoint, variant, "cpu", **words | changed)


def test_own_samples_are_shorter_unless_asked_for(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "SELF_LENGTH", 8)
    # What a dry run counts is what is made.
    assert calibration.sample_shape(parse_variant(OWN), checkpoint) == (3, 8)
    assert {len(one) for one in samples(checkpoint, [], OWN).samples} == {8}


def test_the_models_own_text_begins_as_its_tokenizer_says(checkpoint: Checkpoint) -> None:
    told: list[Event] = []
    found = samples(checkpoint, told)
    assert [len(one) for one in found.samples] == [16] * 3
    assert {one[0] for one in found.samples} == {0}
    assert found.samples == samples(checkpoint, []).samples
    assert found.identity == calibration_identity(None, 0, checkpoint.identity.tokenizer)
    assert any("own calibration text of 48 tokens: about" in event.message for event in told)
    assert told[-1].done == told[-1].total == 45


def test_without_bos_and_eos_the_first_token_is_drawn(checkpoint: Checkpoint) -> None:
    class Bare:
        bos_token_id = eos_token_id = None

    model = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32)
    model.config.bos_token_id = None
    drawn = calibration_samples._first_tokens(Bare(), model, 8, seed=1)
    assert len(set(drawn)) > 1
    assert drawn == calibration_samples._first_tokens(Bare(), model, 8, seed=1)
    Bare.eos_token_id = 7
    assert calibration_samples._first_tokens(Bare(), model, 2, seed=1) == [7, 7]


def test_a_model_that_cannot_write_is_one_line(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evalkit.errors import VariantError
    from evalkit.inference import own_text

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("probability tensor contains either `inf`, `nan`\nor element < 0")

    monkeypatch.setattr(own_text, "own_text", fail)
    with pytest.raises(VariantError, match=r"cannot write its own .*`nan`\); give a file"):
        samples(dataclasses.replace(checkpoint), [])
