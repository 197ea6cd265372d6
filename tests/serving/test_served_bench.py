"""Speed of a server: what is counted, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import servers

import evalkit
from evalkit.running.bench.served_round import _decode_rate, _gaps, _prefill_rate, _Timed
from evalkit.serving.client import Streamed


def test_rates_of_two_requests_by_hand() -> None:
    one = _Timed(10.0, Streamed(0.5, (0.1, 0.1), 0.7, 3, 8))
    two = _Timed(10.1, Streamed(0.9, (0.2, 0.2), 1.3, 3, 8))
    # 16 prompt tokens until 11.0; 4 tokens behind the first ones from 10.5 to 11.4.
    assert _prefill_rate([one, two], 99) == pytest.approx(16 / 1.0)
    assert _decode_rate([one, two]) == pytest.approx(4 / 0.9)


def test_pieces_of_several_tokens_give_their_mean() -> None:
    assert _gaps(Streamed(0.5, (0.3, 0.3), 1.1, 7, 0)) == pytest.approx((0.1,))
    assert _gaps(Streamed(0.5, (0.3, 0.3), 1.1, 3, 0)) == (0.3, 0.3)


def test_a_bench_of_a_server(checkpoint: Path, tmp_path: Path) -> None:
    server = servers.Completions(checkpoint)
    with servers.serving(server) as url:
        bench = evalkit.bench(
            f"served@endpoint,url={url}", model=str(checkpoint), prompt=12, generate=6,
            batch_sizes=(1, 3), rounds=1, repetitions=2, out=tmp_path,
        )  # fmt: skip
    assert [(p.phase, p.batch_size, p.status) for p in bench.points] == [
        ("prefill", 1, "ok"), ("decode", 1, "ok"), ("prefill", 3, "ok"), ("decode", 3, "ok"),
    ]  # fmt: skip
    assert [p.n for p in bench.points] == [2] * 4
    assert all(p.engine == "endpoint" and p.peak_memory_bytes is None for p in bench.points)
    prompts = [tuple(body["prompt"]) for body in server.asked if body.get("stream")]
    assert {len(prompt) for prompt in prompts} == {12}
    # One warm-up and two repetitions of each point, no prompt twice.
    assert len(set(prompts)) == len(prompts) == 3 * (1 + 3)
    assert all(body["ignore_eos"] for body in server.asked if body.get("stream"))


def test_a_server_that_breaks_off_is_a_row_that_says_so(checkpoint: Path, tmp_path: Path) -> None:
    complete = servers.Completions(checkpoint)

    def broken(request: object, body: dict[str, object]) -> None:
        (servers.breaking_off if body.get("stream") else complete)(request, body)  # type: ignore[arg-type]

    with servers.serving(broken) as url:
        bench = evalkit.bench(
            f"served@endpoint,url={url}", model=str(checkpoint), prompt=12, generate=6, rounds=1,
            out=tmp_path,
        )  # fmt: skip
    assert {point.status for point in bench.points} == {"failed"}
    assert all("broke off" in point.message for point in bench.points)
