"""The conventions against straight loops written from their definitions, and against lm-eval."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.errors import DataError, UsageError
from evalkit.texts.documents import Text, load_text
from evalkit.texts.encoding import TextEncoder, text_encoder
from evalkit.texts.windows import (
    CONVENTIONS,
    Windows,
    check_lengths,
    default_context,
    make_windows,
)

BOS, EOS = 100_001, 100_002


def encode(text: str) -> list[int]:
    return [ord(character) for character in text]


PLAIN = TextEncoder(encode, BOS, EOS, adds_bos=False)
ADDING = TextEncoder(encode, BOS, EOS, adds_bos=True)
BARE = TextEncoder(encode, None, None, adds_bos=False)


def text(*documents: str, name: str = "t", pages: bool = False) -> Text:
    return Text(name, documents, "0" * 64, pages)


def pairs(windows: Windows) -> list[tuple[list[int], int]]:
    """(tokens, score_from) of each window."""
    return [(windows.window(i).tolist(), int(windows.score_from[i])) for i in range(len(windows))]


documents = st.lists(
    st.text("abcdefgh \n", max_size=60).filter(lambda d: len(d) > 0), min_size=1, max_size=6
)
contexts = st.integers(4, 24)


def llama_cpp_reference(
    tokens: list[int], n_ctx: int, add_bos: bool
) -> list[tuple[list[int], list[int]]]:
    """tools/perplexity/perplexity.cpp: (window, target positions) of each chunk."""
    if add_bos:
        tokens = [BOS, *tokens]
    chunks = []
    for chunk in range(len(tokens) // n_ctx):
        window = tokens[chunk * n_ctx : (chunk + 1) * n_ctx]
        if add_bos:
            window[0] = BOS
        first = n_ctx // 2
        # process_logits(logits + first, tokens + first, n_ctx - 1 - first): target i + 1
        chunks.append((window, [first + i + 1 for i in range(n_ctx - 1 - first)]))
    return chunks


@given(documents, contexts, st.booleans())
def test_llama_cpp(docs: list[str], context: int, adds_bos: bool) -> None:
    expected = llama_cpp_reference(encode("\n\n".join(docs)), context, adds_bos)
    encoder = ADDING if adds_bos else PLAIN
    if not expected:
        with pytest.raises(DataError, match="less than one window"):
            make_windows(encoder, [text(*docs)], "llama.cpp", context)
        return
    got = pairs(make_windows(encoder, [text(*docs)], "llama.cpp", context))
    assert [(w, list(range(start, len(w)))) for w, start in got] == expected


def test_llama_cpp_scores_255_of_512() -> None:
    windows = make_windows(ADDING, [text("x" * 2000)], "llama.cpp", 512)
    assert windows.scored.tolist() == [255] * 3
    assert windows.tokens[windows.offsets[:-1]].tolist() == [BOS] * 3


@given(documents, contexts, st.booleans())
def test_gptq(docs: list[str], context: int, adds_bos: bool) -> None:
    """The script: testenc[:, i*seqlen:(i+1)*seqlen] for i < numel // seqlen, labels shifted."""
    stream = ([BOS] if adds_bos else []) + encode("\n\n".join(docs))
    expected = [(stream[i * context : (i + 1) * context], 1) for i in range(len(stream) // context)]
    encoder = ADDING if adds_bos else PLAIN
    if not expected:
        with pytest.raises(DataError, match="less than one window"):
            make_windows(encoder, [text(*docs)], "gptq", context)
        return
    assert pairs(make_windows(encoder, [text(*docs)], "gptq", context)) == expected


@given(documents, contexts, st.sampled_from([PLAIN, ADDING, TextEncoder(encode, None, EOS, False)]))
def test_lm_eval(docs: list[str], context: int, encoder: TextEncoder) -> None:
    """Against lm-eval's own utilities: the model sees a + b[:-1] and b is scored."""
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    prefix = BOS if encoder.bos_id is not None else EOS
    expected = []
    for doc in docs:
        rolling = get_rolling_token_windows(encode(doc), prefix, context, 1)
        expected += [(a + b, len(a)) for a, b in map(make_disjoint_window, rolling)]
    windows = make_windows(encoder, [text(*docs)], "lm-eval", context)
    assert pairs(windows) == expected
    assert windows.scored.sum() == sum(map(len, docs))
    assert windows.lengths.max() <= context + 1


def test_lm_eval_counts_words_and_bytes_of_the_original_page() -> None:
    from lm_eval.tasks.wikitext.preprocess_wikitext import process_results, wikitext_detokenizer

    page = ' = Title = \n It \'s 3 @,@ 500 @-@ odd ( so ) " quoted " caf\u00e9 , 20 \u00b0 C . \n'
    counts = process_results({"page": page}, (0.0,))
    windows = make_windows(PLAIN, [text(page, "x y", pages=True)], "lm-eval", 8)
    last = int(np.flatnonzero(windows.document == 0)[-1])
    assert windows.words[last] == counts["word_perplexity"][1]
    assert windows.bytes[last] == counts["byte_perplexity"][1]
    assert windows.words.sum() == windows.words[last] + 2
    scored = [t for i in range(last + 1) for t in windows.window(i)[windows.score_from[i] :]]
    assert scored == encode(wikitext_detokenizer({"page": page}))
    as_text = make_windows(PLAIN, [text(page)], "lm-eval", 8)
    assert as_text.scored.sum() == len(page)


def test_pages_are_detokenized_as_lm_eval_does(shared: Path) -> None:
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    from evalkit.texts.wikitext import detokenized

    pages = load_text(str(shared / "data" / "tasks" / "wikitext" / "test.jsonl"))
    assert pages.pages
    assert len(pages.documents) == 60
    for page in pages.documents:
        assert detokenized(page) == wikitext_detokenizer({"page": page})


@given(documents, contexts)
def test_document(docs: list[str], context: int) -> None:
    expected = [([BOS, *encode(doc)][:context], 1) for doc in docs]
    windows = make_windows(PLAIN, [text(*docs)], "document", context)
    assert pairs(windows) == expected
    assert windows.document.tolist() == list(range(len(docs)))


def test_document_without_bos_skips_documents_with_nothing_to_score() -> None:
    windows = make_windows(BARE, [text("abc", "", "x", "de")], "document", 8)
    assert pairs(windows) == [([97, 98, 99], 1), ([100, 101], 1)]
    assert windows.document.tolist() == [0, 1]
    with pytest.raises(DataError, match="no token to score"):
        make_windows(BARE, [text("x", "y")], "document", 8)


@pytest.mark.parametrize("convention", CONVENTIONS)
@given(docs=documents, context=contexts)
@settings(max_examples=30)
def test_bos_policies(convention: str, docs: list[str], context: int) -> None:
    docs = [doc + "x" * context for doc in docs]
    always = make_windows(PLAIN, [text(*docs)], convention, context, bos="always")
    assert (always.tokens[always.offsets[:-1]] == BOS).all()
    assert (always.tokens == BOS).sum() == len(always)
    never = make_windows(ADDING, [text(*docs)], convention, context, bos="never")
    assert not (never.tokens == BOS).any()
    if convention == "lm-eval":
        assert never.scored.sum() == sum(map(len, docs)) - len(docs)


def test_gptq_puts_bos_before_the_stream_only_where_the_tokenizer_adds_it() -> None:
    got = make_windows(ADDING, [text("abcdefg")], "gptq", 4)
    assert pairs(got) == [([BOS, 97, 98, 99], 1), ([100, 101, 102, 103], 1)]


def test_several_texts_are_slices_with_their_own_windows() -> None:
    texts = [text("abcd", "efghij", name="a"), text("klm", name="b")]
    windows = make_windows(PLAIN, texts, "document", 5)
    assert windows.slice_names == ("a", "b")
    assert windows.slice.tolist() == [0, 0, 1]
    assert windows.document.tolist() == [0, 1, 2]
    joined = make_windows(PLAIN, [text("x" * 9, name="a"), text("y" * 5, name="b")], "gptq", 4)
    assert joined.slice.tolist() == joined.document.tolist() == [0, 0, 1]


def test_one_short_text_among_several_is_named() -> None:
    texts = [text("x" * 100, name="long"), text("ab", "c", name="short")]
    with pytest.raises(DataError, match=r"text short has 5 tokens, less than one window of 8 .*"):
        make_windows(PLAIN, texts, "llama.cpp", 8)


def test_wrong_words_are_refused() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'llama\.cpp'"):
        make_windows(PLAIN, [text("x")], "llamacpp", 8)
    with pytest.raises(UsageError, match="unknown BOS policy 'alway'"):
        make_windows(PLAIN, [text("x")], "document", 8, bos="alway")
    with pytest.raises(UsageError, match="context 3 is too short"):
        make_windows(PLAIN, [text("x")], "document", 3)
    with pytest.raises(UsageError, match="has no BOS"):
        make_windows(BARE, [text("x")], "document", 8, bos="always")
    with pytest.raises(UsageError, match="neither BOS nor EOS"):
        make_windows(BARE, [text("x")], "lm-eval", 8)
    with pytest.raises(UsageError, match="unknown convention"):
        default_context("other")


def test_default_contexts() -> None:
    assert [default_context(c) for c in CONVENTIONS] == [512, 2048, 2048, 512]


def test_saved_windows_come_back_equal(tmp_path: Path) -> None:
    texts = [text("abc def", "ghi", name="ä"), text("klm", name="b")]
    windows = make_windows(PLAIN, texts, "lm-eval", 4)
    path = tmp_path / "windows.npz"
    windows.save(path)
    loaded = Windows.load(path)
    assert loaded.slice_names == ("ä", "b")
    for name in ("tokens", "offsets", "score_from", "slice", "document", "words", "bytes"):
        before, after = getattr(windows, name), getattr(loaded, name)
        assert before.dtype == after.dtype
        assert (before == after).all()
    assert [p.name for p in tmp_path.iterdir()] == ["windows.npz"]


def test_a_damaged_windows_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "windows.npz"
    make_windows(PLAIN, [text("abc")], "document", 4).save(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="does not hold windows"):
        Windows.load(path)
    with pytest.raises(DataError, match="does not hold windows"):
        Windows.load(tmp_path / "absent.npz")


def test_perplexity_of_the_first_stories(shared: Path) -> None:
    """FACTS of the model: 3.694 on the first 40 stories, each with BOS, at most 512 tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = shared / "models" / "stories260k"
    encoder = text_encoder(AutoTokenizer.from_pretrained(directory))
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    stories = load_text(str(shared / "data" / "text" / "tinystories_1000.txt"), limit=40)
    windows = make_windows(encoder, [stories], "document", 512)
    total = 0.0
    for index in range(len(windows)):
        ids = torch.tensor(windows.window(index).astype(np.int64))
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1]
        nll = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        total += nll[windows.score_from[index] - 1 :].double().sum().item()
    assert len(windows) == 40
    assert math.exp(total / windows.scored.sum()) == pytest.approx(3.694, abs=0.002)


@pytest.mark.parametrize("convention", CONVENTIONS)
@given(pages=documents, context=contexts)
@settings(max_examples=30)
def test_every_token_stands_in_a_window_or_is_counted_as_left_out(
    convention: str, pages: list[str], context: int
) -> None:
    try:
        windows = make_windows(
            BARE if convention != "lm-eval" else PLAIN, [text(*pages)], convention, context
        )
    except DataError:
        return
    stream = len("\n\n".join(pages))
    if convention == "lm-eval":
        assert windows.left_out.sum() == 0
    elif convention == "document":
        held = [page for page in pages if len(page) > 1]
        assert windows.left_out.tolist() == [max(0, len(page) - context) for page in held]
    else:
        assert windows.lengths.sum() + windows.left_out.sum() == stream


def test_a_text_that_is_too_short_is_found_by_its_bytes() -> None:
    check_lengths([text("x" * 510)], "llama.cpp", 512)
    check_lengths([text("x")], "document", 512)
    with pytest.raises(DataError, match=r"has at most 511 tokens, less than one window of 512"):
        check_lengths([text("x" * 600), text("é" * 254 + "x")], "gptq", 512)
