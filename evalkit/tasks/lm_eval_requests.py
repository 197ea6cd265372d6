"""lm-eval's requests in the terms of the scoring engine: windows, decoding settings, seeds."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from evalkit.errors import DataError
from evalkit.inference.decoding import Decoding
from evalkit.inference.prefix_scores import Request

Arguments = tuple[Any, ...]


def rolling_windows(tokens: list[int], prefix_token_id: int, max_length: int) -> list[Request]:
    """A text in windows of the context's length; each token is scored once.

    The first window begins with the prefix token; the last has as much context as fits.
    """
    windows = get_rolling_token_windows(
        token_list=tokens, prefix_token=prefix_token_id, max_seq_len=max_length, context_len=1
    )
    return [Request(*make_disjoint_window(window)) for window in windows]


def decoding_of(settings: Mapping[str, Any], max_gen_toks: int, end_text: str | None) -> Decoding:
    """The decoding that a task's generation settings ask for.

    `max_gen_toks` is used where they name no number; `end_text` of the end-of-text token is a stop
    string too. Raises DataError for max_length, which would count the padding of a batch.
    """
    options: dict[str, Any] = dict(normalize_gen_kwargs(dict(settings), max_gen_toks))
    stop = handle_stop_sequences(list(options.pop("until")), eos=end_text)
    most = options.pop("max_gen_toks")
    if "max_length" in options:
        raise DataError("generation option max_length is not supported: use max_gen_toks")
    if not options.get("do_sample"):
        # Greedy decoding knows no temperature, and transformers warns of one.
        options.pop("temperature", None)
    return Decoding(most, tuple(stop), options)


def request_seeds(arguments: Sequence[Arguments], seed: int | None) -> list[int]:
    """A seed for the sampled text of each request, None as `seed` meaning torch's own.

    Equal requests get different seeds, which depend on how often the request came before.
    """
    base = torch.initial_seed() if seed is None else seed
    seen: dict[str, int] = defaultdict(int)
    seeds = []
    for one in arguments:
        key = json.dumps([base, *one], sort_keys=True, default=str)
        seen[key] += 1
        digest = hashlib.sha256(f"{seen[key]} {key}".encode()).digest()
        seeds.append(int.from_bytes(digest[:8]) >> 1)
    return seeds
