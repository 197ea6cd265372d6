"""Which text a quantizer is calibrated on, and that it is not the text of the evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evalkit.backends import resolved_options, spec_of
from evalkit.demo_data import demo_directory
from evalkit.errors import DataError
from evalkit.models.resolve import DEMO, Checkpoint
from evalkit.records import Variant, content_hash
from evalkit.texts.calibration import require_disjoint
from evalkit.texts.documents import Text, load_text

# The training split of the text most papers on quantization calibrate and evaluate on.
DEFAULT_SOURCE = "hf:Salesforce/wikitext:wikitext-2-raw-v1:train"


def calibration_source(variant: Variant, checkpoint: Checkpoint) -> str:
    """The text `variant` is calibrated on: its option, the demo's own, or WikiText-2's training
    split; empty where its method needs none."""
    spec = spec_of(variant)
    if not spec.needs_calibration:
        return ""
    asked = str(resolved_options(spec, variant).get("calibration", ""))
    if asked:
        return asked
    if checkpoint.name == DEMO:
        return str(demo_directory() / "calibration" / "town_calibration.txt")
    return DEFAULT_SOURCE


def load_calibration(source: str, variant: Variant, *, offline: bool = False) -> Text:
    """The calibration text; raises DataError that says how to give another one."""
    try:
        return load_text(source, offline=offline)
    except DataError as error:
        raise DataError(
            f"no calibration text for {variant.text}: {error}; give a file as"
            f" {variant.precision}@{variant.backend},calibration=FILE"
        ) from error


def calibration_identity(text: Text, seed: int, tokenizer: str) -> str:
    """What identifies calibration samples beside the variant's own options.

    `tokenizer` is the hash of the tokenizer that cuts the text into tokens.
    """
    return content_hash([text.sha256, seed, tokenizer])


def check_disjoint(source: str, calibration: Text, evaluation: Sequence[Text]) -> None:
    """Raise DataError where the calibration text shares 13-grams with an evaluation text."""
    for text in evaluation:
        names = f"{Path(source).name} and {text.name}"
        require_disjoint(calibration.documents, text.documents, names)
