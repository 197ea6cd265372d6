"""`evalkit plan` and `evalkit list gpus` as a user runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import evalkit
from evalkit import cli
from evalkit.running import hardware_plan

Command = Callable[..., tuple[int, str, str]]
TINY = {
    "model_type": "llama", "vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96,
    "max_position_embeddings": 256, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line; returns exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main(list(words))
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    return str(tmp_path)


def test_phi_3_small_on_a_4090_needs_no_weights_and_no_network(command: Command) -> None:
    code, out, _ = command(
        "plan", "fp16", "int8", "int4", "--model", "phi-3-small", "--gpu", "rtx-4090",
        "--offline", "--format", "json",
    )  # fmt: skip
    assert code == 0
    content = json.loads(out)
    assert (content["context"], content["batch"]) == (8192, 1)
    fp16, int8, int4 = content["rows"]
    assert fp16["weight_bytes"] == 14_784_544_768
    assert int8["weight_bytes"] == pytest.approx(7.81e9, rel=0.005)
    assert int4["weight_bytes"] == pytest.approx(4.455e9, rel=0.001)
    for row, rate in ((fp16, 68), (int8, 129), (int4, 227)):
        assert row["kv_cache_bytes_per_token"] == 128 * 1024
        assert row["decode_roofline_tokens_per_second"] == pytest.approx(rate, rel=0.02)
        assert row["fits"] is True
        assert row["max_context"] == 8192
        assert 0 < row["decode_expected_tokens_per_second"] < rate


def test_fp16_at_128k_does_not_fit_a_4090(command: Command) -> None:
    code, out, _ = command(
        "plan", "fp16", "--model", "phi-3-small-128k", "--gpu", "rtx-4090", "--context", "131072",
        "--prefill-chunk", "2048", "--format", "json",
    )  # fmt: skip
    row = json.loads(out)["rows"][0]
    assert code == 0
    assert row["fits"] is False and row["headroom_bytes"] < 0
    assert 8192 < row["max_context"] < 131072


def test_table_says_which_card_was_chosen_and_why(
    command: Command, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware_plan, "gpu_names", lambda: ())
    code, out, _ = command("plan", "fp16", "--model", tiny, "--batch", "3")
    assert code == 0
    assert out.splitlines()[0] == "GPU: rtx-4090, as this machine has none; choose one with --gpu"
    assert "context 256 · batch 3" in out


@pytest.mark.parametrize(
    ("driver", "card", "why"),
    [
        ("NVIDIA H200", "h200", "GPU: h200, this machine's own"),
        ("NVIDIA Curious 1", "rtx-4090", "this machine's NVIDIA Curious 1 is not in the table"),
    ],
)
def test_the_machines_own_card_is_the_default(
    driver: str, card: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware_plan, "gpu_names", lambda: (driver,))
    found, said = hardware_plan.choose_card(None)
    assert found.name == card
    assert why in said
    assert hardware_plan.choose_card("l4")[1] == ""


def test_markdown_of_a_directory(command: Command, tiny: str) -> None:
    code, out, _ = command(
        "plan", "fp32", "int8", "--model", tiny, "--gpu", "t4", "--format", "markdown"
    )
    assert code == 0
    assert "| int8 LLM.int8()" in out


def test_a_variant_the_model_cannot_take_leaves_the_others(command: Command, tiny: str) -> None:
    words = ("plan", "fp16", "int4@gptq", "--model", tiny, "--gpu", "t4", "--format", "json")
    code, out, err = command(*words)
    assert code == 1
    fp16, int4 = json.loads(out)["rows"]
    assert fp16["fits"] is True
    assert int4["variant"] == "int4@gptq" and int4["weight_bytes"] is None
    assert err.startswith("evalkit: int4@gptq: int4@gptq,group_size=128 cannot pack")
    assert len(err.splitlines()) == 1


def test_packed_experts_are_no_row_with_numbers(command: Command, tmp_path: Path) -> None:
    experts = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    (tmp_path / "config.json").write_text(json.dumps({**TINY, **experts}))
    words = ("bf16", "int8", "int4@gptq,group_size=32", "--model", str(tmp_path), "--gpu", "t4")
    code, out, _ = command("plan", *words)
    assert code == 1
    assert out.count("a plan cannot count packed experts") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpu", "rtx4090"), "unknown GPU 'rtx4090'"),
        (("--gpu", "rtx-4090", "--batch", "0"), "--batch 0"),
        (("--gpu", "rtx-4090", "--context", "-1"), "--context -1"),
        (("--gpu", "rtx-4090", "--prefill-chunk", "-1"), "--prefill-chunk -1"),
        (("--gpu", "rtx-4090", "--context", "257"), "--context 257 is beyond the 256 positions"),
    ],
)
def test_bad_input_is_one_line_with_exit_code_2(
    command: Command, tiny: str, words: tuple[str, ...], said: str
) -> None:
    code, out, err = command("plan", "fp16", "--model", tiny, *words)
    assert (code, out) == (2, "")
    assert said in err and len(err.splitlines()) == 1


def test_plan_is_a_python_function_too(tiny: str) -> None:
    found = evalkit.plan("fp16", model=tiny, gpu="t4", context=128, batch=2)
    assert (found.card.name, found.context, found.batch) == ("t4", 128, 2)
    assert [row.variant for row in found.rows] == ["fp16"]
    assert found.notes == ()


def test_list_gpus_names_the_cards(command: Command) -> None:
    code, out, _ = command("list", "gpus")
    assert code == 0
    assert "rtx-4090: GeForce RTX 4090" in out
