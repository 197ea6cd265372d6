"""The formats of a small real model at their true bytes: which keeps most of the baseline?

Every format that a machine without a card can make, on one text and against one baseline: what it
weighs, its divergence with interval, how often the most likely token stays, and what ran. Which
formats are on the front rests on paired differences. GPTQ is calibrated on a text of its own, with
three draws of it.

Goal: GPTQ below rounding to nearest at equal bytes.

    python benchmarks/formats.py --model DIR --text FILE --calibration FILE [--samples 64]
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from _common import ROOT, table, write_results

import evalkit
from evalkit.records import Comparison
from evalkit.view.rendering import render

CALIBRATED = "calibration={calibration},samples={samples},group_size=64"
VARIANTS = (
    "fp16", "int8@bitsandbytes", "int8@torchao", "fp8@torchao", "q8_0@gguf",
    "int4@bitsandbytes", "int4@rtn,group_size=64", "q4_0@gguf", "q4_1@gguf", "q5_1@gguf",
    "iq4_nl@gguf", "q4_k_m@gguf",
    "int4@gptq," + CALIBRATED, "int4@gptq,method=gptaq," + CALIBRATED,
    "int4@gptq,mse=2.4," + CALIBRATED, "int4@awq," + CALIBRATED,
    "int4@gptq,calibration_seed=1," + CALIBRATED, "int4@gptq,calibration_seed=2," + CALIBRATED,
)  # fmt: skip
SHOWN = ("weight_bytes", "bits_per_weight", "bits_per_quantized_weight")
DIVERGED = ("kl_divergence_mean", "top1_agreement", "perplexity")


def row_of(row: dict[str, Any], model: str, calibration: str) -> dict[str, Any]:
    """What a row of the JSON object says here; paths of this machine are left out."""
    metrics = row["metrics"]
    found = {name: metrics[name]["value"] for name in (*SHOWN, *DIVERGED) if name in metrics}
    if "kl_divergence_mean" in metrics:
        kl = metrics["kl_divergence_mean"]
        found |= {"kl_low": kl["low"], "kl_high": kl["high"], "tokens": kl["n"]}
    words = row["resolved"].replace(calibration, "FILE").replace(model, "MODEL")
    message = row["message"].replace(calibration, "FILE").replace(model, "MODEL")
    return {"variant": words, "status": row["status"], "message": message,
            "kernel": row["kernel"], **found}  # fmt: skip


def shown(rows: list[dict[str, Any]]) -> None:
    """Print the formats from the largest to the smallest."""
    lines = [["format", "MB", "bits", "of quantized", "mean KL", "95 %", "top-1"]]
    for row in sorted(rows, key=lambda row: -row.get("weight_bytes", 0.0)):
        if row["status"] != "ok" or "weight_bytes" not in row:
            lines.append([row["variant"], "–", "–", "–", row["message"] or row["status"], "", ""])
            continue
        quantized, kl = row.get("bits_per_quantized_weight"), row.get("kl_divergence_mean")
        lines.append([
            row["variant"],
            f"{row['weight_bytes'] / 1e6:.1f}",
            f"{row['bits_per_weight']:.2f}",
            "–" if quantized is None else f"{quantized:.2f}",
            "–" if kl is None else f"{kl:.4f}",
            "–" if kl is None else f"[{row['kl_low']:.4f}, {row['kl_high']:.4f}]",
            "–" if kl is None else f"{100 * row['top1_agreement']:.1f} %",
        ])  # fmt: skip
    table("formats by bytes", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--variants", nargs="+", default=VARIANTS, help="fewer of them")
    parser.add_argument("--out", default=None, help="folder of the results")
    asked = parser.parse_args()
    made_of = {"calibration": asked.calibration, "samples": asked.samples}
    variants = [variant.format(**made_of) for variant in asked.variants]
    result: Comparison = evalkit.compare(
        *variants, model=asked.model, text=[asked.text], only=["text", "memory"], out=asked.out
    )
    made = json.loads(render(result, "json"))
    rows = [row_of(row, asked.model, asked.calibration) for row in made["rows"]]
    shown(rows)
    write_results("formats", {"samples": asked.samples, "rows": rows})
    figure = ROOT / "docs" / "images" / "divergence_bytes.png"
    result.plot.divergence_bytes().savefig(figure, dpi=120)


if __name__ == "__main__":
    main()
