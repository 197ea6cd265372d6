"""A served model beside the same model loaded here: the same numbers, and what is missing said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import servers
import tiny

import evalkit
from evalkit.cli import main
from evalkit.records import Comparison


def compare(store: Path, checkpoint: Path, *variants: str, **words: object) -> Comparison:
    return evalkit.compare(*variants, model=str(checkpoint), out=store, **words)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    rows = [
        {"q": f"the old {word} sees", "choices": [" a tree", " the river", " and"], "answer": i % 3}
        for i, word in enumerate(("house", "stone", "bird", "tree", "river", "red"))
    ]
    data = folder / "test.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    (folder / "choices.yaml").write_text(tiny.multiple_choice("choices", data))
    return folder / "choices.yaml"


def test_the_same_perplexity_and_scores(
    tmp_path: Path, checkpoint: Path, text: Path, url: str, task: Path
) -> None:
    served = f"served@endpoint,url={url}"
    result = compare(tmp_path, checkpoint, "fp32", served, text=text, tasks=str(task))
    here, there = result.rows
    assert there.status == "ok", there.message
    assert there.kernel == "tiny in a server"
    for name in ("perplexity", "choices.acc"):
        assert there.metrics[name].value == pytest.approx(here.metrics[name].value, rel=1e-5)
        assert there.metrics[name].n == here.metrics[name].n
    assert there.metrics["perplexity"].delta == pytest.approx(0, abs=1e-3)
    missing = {"kl_divergence_mean", "weight_bytes", "decode_tokens_per_second"}
    assert missing & {k for k, v in there.metrics.items() if v.value is not None} == set()
    assert any("divergence" in note and "not measured" in note for note in there.notes)


def test_a_server_as_baseline(tmp_path: Path, checkpoint: Path, text: Path, url: str) -> None:
    served = f"served@endpoint,url={url},model=tiny"
    result = compare(tmp_path, checkpoint, served, "fp16", "int4@bitsandbytes", text=text)
    assert [row.status for row in result.rows] == ["ok"] * 3
    first, fp16, int4 = (row.metrics["perplexity"] for row in result.rows)
    assert fp16.value == pytest.approx(first.value, rel=1e-2)
    assert abs(int4.delta or 0) > abs(fp16.delta or 0)
    assert "kl_divergence_mean" not in result.rows[1].metrics
    assert result.noise_floor["perplexity"] == pytest.approx(0, abs=1e-4)


def test_a_server_that_takes_text_only(tmp_path: Path, checkpoint: Path, text: Path) -> None:
    server = servers.Completions(checkpoint, takes_tokens=False)
    with servers.serving(server) as url:
        result = compare(
            tmp_path, checkpoint, "fp32", f"served@endpoint,url={url}", text=text,
            convention="document",
        )  # fmt: skip
    here, there = result.rows
    assert there.status == "ok", there.message
    assert any("tokenises itself" in note for note in there.notes)
    assert there.metrics["perplexity"].value == pytest.approx(here.metrics["perplexity"].value)
    # Token ids were tried at each opening: to ask who it is, and to measure.
    assert sum(not isinstance(body["prompt"], str) for body in server.asked) == 2


@pytest.mark.parametrize(
    ("handler", "words"),
    [(servers.without_logprobs, "no log-probabilities of the prompt"),
     (servers.silent, "did not answer in full within 1 s")],
)  # fmt: skip
def test_a_bad_server_harms_no_other_row(
    tmp_path: Path, checkpoint: Path, text: Path, handler: servers.Handler, words: str
) -> None:
    with servers.serving(handler) as url:
        bad = f"served@endpoint,url={url},timeout=1"
        result = compare(tmp_path, checkpoint, "fp32", bad, text=text)
    here, there = result.rows
    assert (here.status, there.status) == ("ok", "failed")
    assert words in there.message
    assert "\n" not in there.message


def test_a_serve_command_that_dies(
    checkpoint: Path, text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = f"{sys.executable} -c 'print(1); raise SystemExit(\"no GPU here\")'"
    served = "served@endpoint,url=http://127.0.0.1:9"
    source = ["--model", str(checkpoint), "--text", str(text), "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(["compare", served, "--serve", command, *source])
    assert ended.value.code == 1
    shown = "".join(capfd.readouterr())
    assert "Traceback" not in shown
    assert "ended with exit code 1: no GPU here" in shown
    logs = list((tmp_path / "servers").glob("*.log"))
    assert [log.read_text() for log in logs] == ["1\nno GPU here\n"]


def test_a_serve_command_without_a_variant(checkpoint: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(evalkit.EvalkitError, match="--serve 'vllm' has no variant"):
        compare(tmp_path, checkpoint, "fp32", text=text, serve="vllm")


def test_nothing_outlives_a_killed_evalkit(tmp_path: Path) -> None:
    """The server's whole process group ends, with SIGKILL for what ignores SIGTERM."""
    program = (
        "import sys; from pathlib import Path\n"
        "from evalkit.serving.http import Address\n"
        "from evalkit.serving import process\n"
        "process.STOP_SECONDS = 0.5\n"
        "inner = f'trap : TERM; sleep 300 & echo $! > {sys.argv[1]}; sleep 300; sleep 300'\n"
        "address, log = Address('http://127.0.0.1:9/v1'), Path(sys.argv[2])\n"
        "with process.served(f'sh -c \"{inner}\"', address, log, lambda: 0):\n"
        "    pass\n"
    )
    pid_file = tmp_path / "pid"
    evalkit_ = subprocess.Popen(
        [sys.executable, "-c", program, str(pid_file), str(tmp_path / "log")], env=dict(os.environ)
    )
    wait_for(lambda: pid_file.exists() and pid_file.read_text().strip() != "")
    server = psutil.Process(int(pid_file.read_text()))
    assert server.is_running()
    evalkit_.kill()
    evalkit_.wait()
    wait_for(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


def wait_for(condition: object, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)
