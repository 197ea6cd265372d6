"""evalkit speculate: measured beside what compare measured before, from the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

import evalkit
from evalkit.cli import main
from evalkit.records.bench import Speculation
from evalkit.store.store import SPECULATION_SCHEMA, from_schema
from evalkit.view import render
from evalkit.view.speculation import Speculations


def test_measured_and_predicted_side_by_side(tmp_path: Path) -> None:
    model = tiny.make_llama(tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text(tiny.documents(1, 6), encoding="utf-8")
    store = tmp_path / "store"
    words = {"model": str(model), "text": text, "out": store}
    result = evalkit.compare("fp32", "int4@bitsandbytes", **words)
    quality = result.rows[1].metrics
    lookup, int4 = evalkit.speculate(
        "fp32", "int4@bitsandbytes", prompt_lookup=True, prompts=3, prompt=16, generate=20, **words
    )
    assert (lookup.draft, int4.draft) == ("prompt-lookup", "int4@bitsandbytes")
    assert int4.tokens == 60
    assert int4.differing == int4.ties  # in float32 only ties may differ
    assert 1 <= int4.tokens_per_pass <= 5
    assert int4.predicted_accepted == pytest.approx(1 - (quality["total_variation"].value or 0))
    assert int4.agreement == pytest.approx(quality["top1_agreement"].value)
    accepted = int4.predicted_accepted or 0
    assert int4.predicted_tokens_per_pass == pytest.approx((1 - accepted**5) / (1 - accepted))
    assert int4.sampled_accepted == pytest.approx(accepted, abs=0.2)
    assert lookup.predicted_accepted is None
    (file,) = (store / "speculation").glob("*.json")
    stored = from_schema(file, SPECULATION_SCHEMA, "speculation", tuple[Speculation, ...])
    assert stored == (lookup, int4)
    shown = render(Speculations((lookup, int4)))
    assert f"{100 * accepted:.1f} % 1 − TV" in shown
    assert len(json.loads(render(Speculations((int4,)), "json"))["rows"]) == 1


def test_bad_words_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["speculate", "fp16", "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("evalkit: no draft given")
