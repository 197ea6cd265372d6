"""Which text a quantizer is calibrated on, and that it is not the text of the evaluation.

Without any text a model is calibrated on what it writes itself (`calibration=self`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from evalkit.backends import resolved_options, spec_of
from evalkit.demo_data import demo_directory
from evalkit.errors import DataError
from evalkit.models.checkpoint import Checkpoint
from evalkit.models.resolve import DEMO
from evalkit.records import Variant, content_hash
from evalkit.texts.documents import Text, load_text
from evalkit.texts.uses import TextUses, Use

# The training split of the text most papers on quantization calibrate and evaluate on.
DEFAULT_SOURCE = "hf:Salesforce/wikitext:wikitext-2-raw-v1:train"
# In the place of a file: the model's own text. A change of how it is drawn is a new version.
SELF = "self"
SELF_VERSION = 1
# Tokens are written one step after another: so many as the Hessians need, in a few minutes.
SELF_LENGTH = 128


def calibration_source(variant: Variant, checkpoint: Checkpoint) -> str:
    """The text `variant` is calibrated on: its option, the demo's own, or WikiText-2's training
    split; SELF for the model's own, empty where its method needs none."""
    spec = spec_of(variant)
    if not spec.needs_calibration:
        return ""
    asked = str(resolved_options(spec, variant).get("calibration", ""))
    if asked:
        return asked
    if checkpoint.name == DEMO:
        return str(demo_directory() / "calibration" / "town_calibration.txt")
    return DEFAULT_SOURCE


def sample_shape(variant: Variant, checkpoint: Checkpoint) -> tuple[int, int]:
    """Number of calibration samples, and tokens of each; (0, 0) for a method that needs none."""
    source = calibration_source(variant, checkpoint)
    if not source:
        return 0, 0
    options = resolved_options(spec_of(variant), variant)
    length = int(options["sample_length"])
    if source == SELF:
        length = int(variant.option("sample_length", SELF_LENGTH))
    return int(options["samples"]), min(length, checkpoint.positions or length)


def choose_calibration(
    variant: Variant, checkpoint: Checkpoint, *, offline: bool
) -> tuple[Variant, Text | None, str]:
    """`variant` with its calibration, the text (None for the model's own), and what to note of it.

    Where none was chosen and the usual data set cannot be had, it is the model's own text. Raises
    DataError where a text that was asked for cannot be read.
    """
    source = calibration_source(variant, checkpoint)
    if source == SELF:
        return variant, None, ""
    if source != DEFAULT_SOURCE or resolved_options(spec_of(variant), variant)["calibration"]:
        return variant, load_calibration(source, variant, offline=offline), ""
    try:
        text = load_calibration(source, variant, offline=offline)
    except DataError:
        options = tuple(sorted({**dict(variant.options), "calibration": SELF}.items()))
        why = "--offline was given" if offline else "the hub does not give it"
        note = f"{source} is not in the cache and {why}: give a file as calibration=FILE"
        note = f"{variant.label} is calibrated on text that the model itself writes: {note}"
        return dataclasses.replace(variant, options=options), None, note
    return variant, text, f"{variant.label} is calibrated on WikiText-2's training split ({source})"


def load_calibration(source: str, variant: Variant, *, offline: bool = False) -> Text:
    """The calibration text; raises DataError that says how to give another one."""
    try:
        return load_text(source, offline=offline)
    except DataError as error:
        raise DataError(
            f"no calibration text for {variant.text}: {error}; give a file as"
            f" {variant.precision}@{variant.backend},calibration=FILE"
        ) from error


def calibration_seed(variant: Variant, seed: int) -> int:
    """What the samples of `variant` are drawn with where the command's seed is `seed`."""
    return seed + int(variant.option("calibration_seed", 0))


def calibration_identity(text: Text | None, seed: int, tokenizer: str) -> str:
    """What identifies calibration samples beside the variant's own options and the model.

    `text` is None for the model's own; `tokenizer` is the hash of the tokenizer that cuts it into
    tokens.
    """
    source = [SELF, SELF_VERSION] if text is None else text.sha256
    return content_hash([source, seed, tokenizer])


def check_disjoint(source: str, calibration: Text, evaluation: Sequence[Text]) -> None:
    """Raise DataError where the calibration text shares anything with an evaluation text."""
    uses = TextUses(Use("calibration", Path(source).name, calibration))
    for text in evaluation:
        uses.add(
            Use("evaluation", text.name, text),
            "calibrate on another text or allow it with --allow-overlap",
        )
