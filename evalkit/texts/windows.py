"""Windows: which tokens a model sees together, and which of them are scored.

The four conventions, by name (perplexities under different ones are not comparable):

llama.cpp   The perplexity program of llama.cpp. One stream a text, cut into windows of `context`
            (512) tokens, the tail dropped; only the second half of a window is scored, 255 tokens
            at 512. If the tokenizer adds BOS, the stream begins with it and it overwrites the
            first token of every window.
gptq        The evaluation of the GPTQ paper's script (IST-DASLab/gptq). One stream a text, cut
            into windows of `context` (2048) tokens, the tail dropped; every token but the first
            of a window is scored. If the tokenizer adds BOS, the stream begins with it.
lm-eval     loglikelihood_rolling of lm-eval 0.4.13 with a context of one token: per document,
            windows of up to `context` targets, the first after BOS (EOS if there is none), the
            others after the token before them; the last one is filled up with earlier tokens
            as context. Every token of a document is scored once. A window holds up to
            `context` + 1 tokens; the model's input is all but the last.
document    Each document alone, BOS first if the tokenizer has one, cut at `context` tokens;
            every token after the first is scored.

The stream of a text is its documents joined by two line breaks, as the GPTQ script joins the rows
of a dataset; a plain file of one document is taken as it is. Special-token strings inside a text
are text. With bos="always", BOS stands in the place of the first, unscored token of every window
(`document`: before the document); with "never" there is none, and the first token of a document
is context only.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import DataError, UsageError, unknown
from evalkit.texts.documents import Text
from evalkit.texts.encoding import Encode, TextEncoder, encode_text
from evalkit.texts.wikitext import detokenized, word_count

DEFAULT_CONTEXT = {"llama.cpp": 512, "gptq": 2048, "lm-eval": 2048, "document": 512}
CONVENTIONS = tuple(DEFAULT_CONTEXT)
BOS_POLICIES = ("convention", "always", "never")
MINIMUM_CONTEXT = 4

Tokens = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Windows:
    """All windows of a suite, one after the other, in the order of the texts.

    Window i is tokens[offsets[i]:offsets[i + 1]]; its tokens from score_from[i] ≥ 1 on are scored,
    each given all tokens of the window before it. `slice` indexes `slice_names`; `document` counts
    documents over all texts (a joined text is one). `words` and `bytes` are those of the original
    document, on its last window, under the convention lm-eval; else 0. `left_out` counts the tokens
    that follow a window in its text or document and stand in no window.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    score_from: NDArray[np.int32]
    slice: NDArray[np.int32]
    document: NDArray[np.int32]
    slice_names: tuple[str, ...]
    words: NDArray[np.int64]
    bytes: NDArray[np.int64]
    left_out: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.score_from)

    def window(self, index: int) -> Tokens:
        """The tokens of one window, int32[length]."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each window, int64[n]."""
        return np.diff(self.offsets)

    @property
    def scored(self) -> NDArray[np.int64]:
        """Scored tokens of each window, int64[n]."""
        return self.lengths - self.score_from

    def save(self, path: Path) -> None:
        """Write all arrays to `path` (NumPy's npz) in one atomic step."""
        from evalkit.store.files import replacing

        arrays = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Windows:
        """Read what `save` wrote; raises DataError where the file is not that."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {f.name: stored[f.name] for f in fields(cls)}
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            message = f"{path} does not hold windows ({error}): remove it and run again"
            raise DataError(message) from error
        names = tuple(str(name) for name in arrays.pop("slice_names"))
        return cls(**arrays, slice_names=names)


@dataclass(frozen=True)
class _Window:
    tokens: Tokens
    score_from: int
    document: int
    words: int = 0
    bytes: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class _Rules:
    """The arguments of `make_windows`, resolved for one text.

    `first` is the token put before a stream or document, `every` the one that overwrites the
    first token of every window; None for neither.
    """

    encode: Encode
    convention: str
    context: int
    first: int | None
    every: int | None


def default_context(convention: str) -> int:
    """The convention's own context length in tokens."""
    if convention not in DEFAULT_CONTEXT:
        raise unknown("convention", convention, CONVENTIONS)
    return DEFAULT_CONTEXT[convention]


def make_windows(
    encoder: TextEncoder,
    texts: Sequence[Text],
    convention: str,
    context: int,
    *,
    bos: str = "convention",
) -> Windows:
    """Cut `texts` into windows under `convention` (see the module's docstring).

    `encoder` is what the tokenizer does (suites/encoding.py), `bos` one of BOS_POLICIES.
    Raises UsageError for an unknown word or a context below 4, DataError for a text that is
    shorter than one window or leaves no token to score.
    """
    _check(convention, context, bos)
    first, every = _bos_tokens(convention, bos, encoder)
    rules = _Rules(encoder.encode, convention, context, first, every)
    windows: list[_Window] = []
    slices: list[int] = []
    for index, text in enumerate(texts):
        document = windows[-1].document + 1 if windows else 0
        made = list(_text_windows(rules, text, document))
        if not made:
            raise DataError(f"text {text.name} has no token to score: give a longer text")
        windows += made
        slices += [index] * len(made)
    return _assembled(windows, slices, tuple(text.name for text in texts))


def check_lengths(texts: Sequence[Text], convention: str, context: int) -> None:
    """Raise DataError for a text that cannot fill one window, without its tokens being known.

    A token is a byte at least, and a tokenizer may add one or two of its own.
    """
    if convention not in ("llama.cpp", "gptq"):
        return
    for text in texts:
        most = len("\n\n".join(text.documents).encode()) + 2
        if most < context:
            raise _too_short(text, f"at most {most}", convention, context)


def _too_short(text: Text, tokens: str, convention: str, context: int) -> DataError:
    return DataError(
        f"text {text.name} has {tokens} tokens, less than one window of {context} under "
        f"convention {convention}: give a longer text, a shorter context, or use "
        "convention document"
    )


def _check(convention: str, context: int, bos: str) -> None:
    if convention not in CONVENTIONS:
        raise unknown("convention", convention, CONVENTIONS)
    if bos not in BOS_POLICIES:
        raise unknown("BOS policy", bos, BOS_POLICIES)
    if context < MINIMUM_CONTEXT:
        raise UsageError(
            f"context {context} is too short: a window needs at least {MINIMUM_CONTEXT} tokens"
        )


def _bos_tokens(convention: str, bos: str, encoder: TextEncoder) -> tuple[int | None, int | None]:
    """The tokens `first` and `every` of `_Rules`."""
    if bos == "never":
        return None, None
    if bos == "always":
        if encoder.bos_id is None:
            raise UsageError("BOS policy 'always': the tokenizer has no BOS; use convention, never")
        return encoder.bos_id, encoder.bos_id
    if convention == "document":
        return encoder.bos_id, None
    if convention == "lm-eval":
        prefix = encoder.bos_id if encoder.bos_id is not None else encoder.eos_id
        if prefix is None:
            raise UsageError(
                "convention lm-eval: the tokenizer names neither BOS nor EOS to begin with: set "
                "bos_token or eos_token in its tokenizer_config.json, or give --convention "
                "llama.cpp, gptq or document"
            )
        return prefix, None
    added = encoder.bos_id if encoder.adds_bos else None
    return added, added if convention == "llama.cpp" else None


def _text_windows(rules: _Rules, text: Text, document: int) -> Iterator[_Window]:
    if rules.convention in ("llama.cpp", "gptq"):
        yield from _stream_windows(rules, text, document)
        return
    cut = _rolling_windows if rules.convention == "lm-eval" else _document_windows
    for page in text.documents:
        made = list(cut(rules, page, text.pages, document))
        yield from made
        document += bool(made)


def _stream_windows(rules: _Rules, text: Text, document: int) -> Iterator[_Window]:
    stream = _led(rules, "\n\n".join(text.documents))
    context = rules.context
    if len(stream) < context:
        raise _too_short(text, str(len(stream)), rules.convention, context)
    # llama.cpp scores logits n_ctx/2 … n_ctx-2, whose targets are one token further.
    score_from = context // 2 + 1 if rules.convention == "llama.cpp" else 1
    for start in range(0, len(stream) - context + 1, context):
        end = start + context
        tail = len(stream) - end
        left_out = tail if tail < context else 0
        yield _Window(_opened(rules, stream[start:end]), score_from, document, left_out=left_out)


def _document_windows(rules: _Rules, page: str, pages: bool, document: int) -> Iterator[_Window]:
    tokens = _led(rules, page)
    window = tokens[: rules.context]
    if len(window) > 1:
        yield _Window(window, 1, document, left_out=len(tokens) - len(window))


def _rolling_windows(rules: _Rules, page: str, pages: bool, document: int) -> Iterator[_Window]:
    """lm_eval.utils.get_rolling_token_windows with context_len=1 and make_disjoint_window.

    Both lists of a pair overlap in one token less than the targets; a window is their union.
    """
    tokens = _led(rules, detokenized(page) if pages else page)
    context, done = rules.context, 1
    while done < len(tokens):
        end = min(done + context, len(tokens))
        start = max(0, end - context - 1)
        last = end == len(tokens)
        yield _Window(
            _opened(rules, tokens[start:end]),
            done - start,
            document,
            words=word_count(page) if last else 0,
            bytes=len(page.encode()) if last else 0,
        )
        done = end


def _led(rules: _Rules, text: str) -> Tokens:
    """The ids of `text` after the token that begins a stream or document, if there is one."""
    ids = encode_text(rules.encode, text)
    return ids if rules.first is None else np.concatenate(([rules.first], ids), dtype=np.int32)


def _opened(rules: _Rules, window: Tokens) -> Tokens:
    if rules.every is None:
        return window
    return np.concatenate(([rules.every], window[1:]), dtype=np.int32)


def _assembled(windows: list[_Window], slices: list[int], names: tuple[str, ...]) -> Windows:
    lengths = [len(window.tokens) for window in windows]
    return Windows(
        tokens=np.concatenate([window.tokens for window in windows]),
        offsets=np.concatenate(([0], np.cumsum(lengths)), dtype=np.int64),
        score_from=np.array([window.score_from for window in windows], dtype=np.int32),
        slice=np.array(slices, dtype=np.int32),
        document=np.array([window.document for window in windows], dtype=np.int32),
        slice_names=names,
        words=np.array([window.words for window in windows], dtype=np.int64),
        bytes=np.array([window.bytes for window in windows], dtype=np.int64),
        left_out=np.array([window.left_out for window in windows], dtype=np.int64),
    )
