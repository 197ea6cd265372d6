"""The tables that benchmarks/gpu.py prints, and what others report beside its figures."""

from __future__ import annotations

from typing import Any

from _common import table

from evalkit.analysis.cards import find_card

# Share of bandwidth at batch 1 of 7-8 B models on an RTX 4090: calm's BF16, FP8 and GF4.
OTHERS = {"fp16": 0.88, "bf16": 0.88, "int8": 0.84, "int4": 0.76}
PLAN = 0.05
# tokens/s in INT8 that this model is said to reach on an RTX 4090.
BRIEF = {"int8": 90.0}


def show_all(content: dict[str, Any]) -> None:
    if content["rehearsal"]:
        print("\nA rehearsal on the CPU: every part ran, its figures mean nothing.")
    _decode(content["decode"], content["bandwidth_from"])
    if not content["rehearsal"]:
        _projections(content["decode"], content["target"])
    _peaks(content["peaks"])
    _continued(content["continued_texts"])
    _against_lm_eval(content["against_lm_eval"])
    print(f"\n  whole run: {content['seconds']:.0f} s")


def _decode(rows: list[dict[str, Any]], bandwidth_from: str) -> None:
    header = ["variant", "engine", "batch", "tokens/s", "MBU", "others, batch 1", "J/token",
              "prepared in"]  # fmt: skip
    table(f"Decode (MBU: bandwidth of {bandwidth_from})", [header] + [
        [
            row["variant"], row["engine"] or "-", str(row["batch"]),
            _number(row["tokens_per_second"], "{:.1f}") or row["status"],
            _number(row.get("fraction_of_roofline"), "{:.0%}") or "-",
            _others(row) if row["batch"] == 1 else "",
            _number(row["joules_per_token"], "{:.2f}") or "not measured",
            _number(row["preparation_seconds"], "{:.0f} s") or "-",
        ]
        for row in rows
    ])  # fmt: skip
    for line in dict.fromkeys(f"{row['variant']}: {row['message']}" for row in rows
                              if row["message"]):  # fmt: skip
        print(f"  {line}")


def _projections(rows: list[dict[str, Any]], target: str) -> None:
    lines = [["variant", "engine", "fraction of roofline", "roofline there", "expected", "brief"]]
    for row in rows:
        if row["batch"] == 1 and "target_roofline" in row:
            lines.append([
                row["variant"], row["engine"], f"{row['fraction_of_roofline']:.0%}",
                f"{row['target_roofline']:.0f}", f"{row['target_tokens_per_second']:.0f} tokens/s",
                next((f"{v:.0f}" for key, v in BRIEF.items() if row["variant"].startswith(key)),
                     "-"),
            ])  # fmt: skip
    table(f"Carried over to {find_card(target).title}, an estimate", lines)


def _peaks(rows: list[dict[str, Any]]) -> None:
    header = ["variant", "engine", "batch", "peak", "planned", "peak over plan", "goal"]
    table("Peak memory against the plan", [header] + [
        [
            row["variant"], row["engine"], str(row["batch"]), f"{row['peak'] / 1e9:.3f} GB",
            f"{row['planned'] / 1e9:.3f} GB" if row["planned"] else "-",
            _number(row["ratio"], "{:.2f}") or "-", f"within {PLAN:.0%}",
        ]
        for row in rows
    ])  # fmt: skip


def _continued(found: dict[str, Any]) -> None:
    lines = [["variant", "texts", "prompt", "batch", "tokens/s", "peak"]]
    for name, one in found.items():
        if "message" in one:
            lines.append([name, "-", "-", "-", "-", one["message"]])
            continue
        lines.append([
            name, str(one["texts"]), str(one["prompt_tokens"]), str(one["batch"]),
            f"{one['tokens_per_second']:.0f}",
            ", ".join(f"{key} {value / 1e9:.3f} GB" for key, value in one["peaks"].items()),
        ])  # fmt: skip
    table("Texts continued, as long as gsm8k's with 5 examples", lines)


def _against_lm_eval(found: dict[str, Any]) -> None:
    lines = [["variant", "case", "evalkit", "lm-eval", "ratio", "differs by"]]
    for name, cases in found.items():
        if "message" in cases:
            lines.append([name, cases["message"], "-", "-", "-", "-"])
            continue
        for case, one in cases.items():
            best = min(one["ratios"], key=lambda key: one["ratios"][key]["median"])
            lines.append([
                name, case, f"{one['seconds']['evalkit']['median']:.2f} s",
                f"{one['seconds'][best]['median']:.2f} s ({best.removeprefix('lm-eval, ')})",
                f"{one['ratios'][best]['median']:.2f}", f"{one['difference']:.1e}",
            ])  # fmt: skip
    table("Time of lm-eval's fastest batch size over evalkit's", lines)


def _others(row: dict[str, Any]) -> str:
    found = next((v for key, v in OTHERS.items() if row["variant"].startswith(key)), None)
    return _number(found, "{:.0%}") or "-"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
