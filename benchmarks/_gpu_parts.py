"""What benchmarks/gpu.py measures of one variant in a process of its own, beside evalkit.bench."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from _common import interleaved
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tasks import BATCH, answers, measure, requests

from evalkit.demo_data import demo_directory
from evalkit.metrics.memory import PeakMeter
from evalkit.models.loading import load_tokenizer
from evalkit.progress import Listener
from evalkit.running.job import Job
from evalkit.running.session import LoadedSession, loaded, open_variant
from evalkit.scoring.engine import score_windows
from evalkit.texts.documents import Text
from evalkit.texts.encoding import text_encoder
from evalkit.texts.windows import make_windows

# More than a token has, so that enough of a text is read.
LETTERS = 8
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Part:
    """A variant and how much of it: items of a task, texts to continue, lengths in tokens.

    `prompt` and `generate` are those of the texts to continue; `context` is that of perplexity.
    """

    job: Job
    items: int
    repetitions: int
    texts: int
    prompt: int
    generate: int
    context: int


def card(device: str, send: Listener) -> dict[str, Any]:
    """Name, capability and memory of the card that is used; empty on a CPU."""
    if device == "cpu":
        return {}
    found = torch.cuda.get_device_properties(torch.device(device))
    capability = (found.major, found.minor)
    return {"name": found.name, "capability": capability, "memory": found.total_memory}


def against_lm_eval(part: Part, send: Listener) -> dict[str, Any]:
    """Time of lm-eval's own Hugging Face backend over evalkit's, same model and same requests."""
    with open_variant(part.job, send) as opened:
        session = _with_tokenizer(loaded(opened))
        model, tokenizer = session.scoring_model, session.tokenizer
        cases = {
            "task, 0 shots": ("demo_where", 0),
            "task, 5 shots": ("demo_where", 5),
            "generation": ("demo_sums", 0),
        }
        found: dict[str, Any] = {}
        for case, (task, shots) in cases.items():
            instances = requests(task, shots, part.items)
            found[case] = measure(model, tokenizer, instances, part.repetitions)
        found["perplexity"] = _perplexity(part, model, tokenizer)
    return found


def _perplexity(part: Part, model: Any, tokenizer: Any) -> dict[str, Any]:
    """Rolling log-likelihood of a text, both ways; they must agree, or times mean nothing."""
    page = (demo_directory() / "text" / "town_test.txt").read_text()
    page = page[: LETTERS // 2 * part.context * part.items]
    text = Text("text", (page,), "")
    windows = make_windows(text_encoder(tokenizer), [text], "lm-eval", part.context)
    theirs = HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=BATCH, max_length=part.context,
        add_bos_token=False,
    )  # fmt: skip
    asked = [Instance("loglikelihood_rolling", {}, (page,), 0)]

    def own() -> float:
        batches = score_windows(
            model, windows, batch_tokens=part.job.settings.batch_tokens, statistics={"nll"}
        )
        return float(sum(batch.columns["nll"].sum(dtype="float64") for batch in batches))

    rolling: Callable[[], Any] = answers(theirs, "loglikelihood_rolling", asked)
    timings = interleaved({"evalkit": own, f"lm-eval, batch {BATCH}": rolling}, part.repetitions)
    total = own()
    return {
        "tokens": int(windows.scored.sum()),
        "seconds": timings.to_json(),
        "ratios": {f"lm-eval, batch {BATCH}": timings.ratio(f"lm-eval, batch {BATCH}", "evalkit")},
        "difference": abs(total + sum(rolling())) / total,
    }


def continued_texts(part: Part, send: Listener) -> dict[str, Any]:
    """Greedy continuation of texts as long as gsm8k's with five examples: speed, batch and peak.

    All prompts begin with the same four fifths, as examples do. `batch` is the most sequences that
    one step decoded.
    """
    with open_variant(part.job, send) as opened:
        session = _with_tokenizer(loaded(opened))
        lm = session.language_model(0)
        rows = [0]
        session.scoring_model.get_input_embeddings().register_forward_pre_hook(
            lambda _, given: rows.append(given[0].shape[0] if given[0].shape[-1] == 1 else 0)
        )
        asked = [
            Instance("generate_until", {}, (prompt, _greedy(part)), number)
            for number, prompt in enumerate(_prompts(part, session.tokenizer))
        ]
        meter = PeakMeter(part.job.device, session.resident_before)
        meter.reset()
        begun = time.perf_counter()
        texts = lm.generate_until(asked, disable_tqdm=True)
        seconds = time.perf_counter() - begun
        made = sum(len(session.tokenizer.encode(text)) for text in texts)
        return {
            "texts": len(texts),
            "prompt_tokens": part.prompt,
            "seconds": seconds,
            "tokens_per_second": made / seconds,
            "batch": max(rows),
            "peaks": meter.peaks(),
            "notes": list(lm.notes),
        }


def _greedy(part: Part) -> dict[str, Any]:
    """No text of these ends early: nothing stops them."""
    return {"until": [], "do_sample": False, "max_gen_toks": part.generate}


def _prompts(part: Part, tokenizer: Any) -> list[str]:
    """Texts of about `part.prompt` tokens."""
    shared = part.prompt * 4 // 5
    own = part.prompt - shared
    starts = range(shared, shared + own * part.texts, own)
    text = (demo_directory() / "text" / "town_test.txt").read_text()
    ids = tokenizer.encode(text[: LETTERS * (starts[-1] + own)])
    return [tokenizer.decode(ids[:shared] + ids[start : start + own]) for start in starts]


def _with_tokenizer(session: LoadedSession) -> LoadedSession:
    """A configuration alone has no tokenizer: then the demo's, whose ids are ids of any model."""
    path = session.job.checkpoint.path
    if not any((path / name).is_file() for name in TOKENIZERS):
        session.tokenizer = load_tokenizer(demo_directory() / "model")
    return session
