"""Speculative decoding: one variant drafts for another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.progress import Listener, live

if TYPE_CHECKING:
    from evalkit.records.bench import Speculation


def speculate(
    target: str,
    *drafts: str,
    model: str | None = None,
    draft_tokens: int = 4,
    prompt_lookup: bool = False,
    text: str | Path | tuple[str | Path, ...] = (),
    suite: str | None = None,
    prompts: int = 8,
    prompt: int = 128,
    generate: int = 64,
    device: str = "auto",
    seed: int = 0,
    offline: bool = False,
    out: Path | str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    progress: Listener | None = None,
) -> tuple[Speculation, ...]:
    """Decode `target` with each of `drafts` proposing tokens, and compare with plain decoding.

    Both models are loaded in one process. `prompts` texts are cut to `prompt` tokens and
    continued greedily by `generate`; `draft_tokens` are proposed before each pass.
    `prompt_lookup` also measures drafts taken from the text itself. What the quality pass of
    `compare` has measured for the same variants stands beside it as a prediction.

    A draft that fails is told to `progress` and left out. Raises UsageError, DataError or
    ModelError before anything starts, VariantError where nothing could be measured.
    """
    from evalkit.running.compare.plan import Request
    from evalkit.running.speculate import SpeculateRequest
    from evalkit.running.speculate import speculate as run

    texts = (text,) if isinstance(text, str | Path) else text
    compared = Request(
        variants=(target, *drafts),
        model=model,
        suite=suite,
        text=tuple(str(one) for one in texts),
        device=device,
        seed=seed,
        offline=offline,
        out=None if out is None else Path(out),
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    request = SpeculateRequest(compared, draft_tokens, prompt_lookup, prompts, prompt, generate)
    if progress is not None:
        return run(request, progress)
    with live() as listener:
        return run(request, listener)
