"""What is held of each small model: the product's numbers against plain transformers."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging
from zoo.build import TEXT, build, ids_of
from zoo.in_process import Watched, in_this_process

from evalkit import api
from evalkit.backends import gptq, parse_variant
from evalkit.errors import EvalkitError
from evalkit.inference.decoding import Decoding
from evalkit.inference.generate import generate_texts
from evalkit.inference.prefix_scores import Request, score_requests
from evalkit.models.loading import load_causal_lm, load_tokenizer
from evalkit.models.resolve import resolve_model
from evalkit.scoring import head
from evalkit.tasks.local_model import LocalLanguageModel
from evalkit.texts.windows import Windows
from evalkit.view.rendering import render

TASKS = TEXT.parents[1] / "tasks"
CALIBRATION = TEXT.parents[1] / "calibration" / "town_calibration.txt"
# The bare int4 is GPTQ in the largest group that fits, else NF4. It comes last: GPTQ's library
# changes how transformers builds experts in the process that imports it.
VARIANTS = ("fp32", "int8", "int4@bitsandbytes", "int4")
_QUICK = {"samples": 8, "sample_length": 64, "calibration": str(CALIBRATION)}
PACKED_SHARE = 0.9
# Relative to a sum of log-likelihoods, and to a perplexity, both in float32.
TOLERANCE = 2e-4
_ADVISED = re.compile(r"\bint[248]@\w+(?:,\w+=[-\w]+)*|\bgroup_size=-?\d+|\bbf16\b|\bfp16\b|16 bit")


@dataclass
class Findings:
    """What came of one type, by step: "ok", or what is wrong in a line."""

    model_type: str
    architecture: str = ""
    parameters: int = 0
    steps: dict[str, str] = field(default_factory=dict)
    packed: dict[str, float] = field(default_factory=dict)
    int4: str = ""
    raw: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    bad_advice: list[str] = field(default_factory=list)

    def hold(self, step: str, check: Callable[[], str]) -> None:
        """Run `check`, which says what is silently wrong ("" where nothing is)."""
        try:
            found = check()
        except EvalkitError as error:
            self.steps[step] = f"refused: {error}"
            return
        except Exception as error:  # a raw error is what is looked for
            self.raw.append(f"{step}: {type(error).__name__}: {error}"[:400])
            self.steps[step] = f"raw: {type(error).__name__}: {error}"[:400]
            return
        self.steps[step] = found or "ok"
        if found:
            self.wrong.append(f"{step}: {found}")

    @property
    def state(self) -> str:
        """The worst of what was found, in the words of the table."""
        if self.wrong:
            return "silently wrong"
        if self.raw:
            return "raw error"
        if self.bad_advice:
            return "advice fails"
        # A comparison asks for int4 by its bare name, which takes another method than GPTQ's.
        if any(found != "ok" for step, found in self.steps.items() if step != "int4@gptq"):
            return "refused"
        return "works"


def examine(model_type: str, folder: Path, *, whole_tokens: int = head.WHOLE_TOKENS) -> Findings:
    """Build a small model of `model_type` below `folder` and push it through evalkit."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    found = Findings(model_type)
    path = folder / "models" / model_type
    try:
        build(model_type, path)
        plain = plain_model(path)
        given = torch.tensor([ids_of(TEXT.read_text(encoding="utf-8"), 40)])
        plain.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=2)
    except Exception as error:  # whatever transformers makes of the type by itself
        found.steps["transformers"] = f"{type(error).__name__}: {error}"[:300]
        return found
    found.architecture = type(plain).__name__
    found.parameters = sum(p.numel() for p in plain.parameters())
    try:
        load_causal_lm(path, dtype=torch.float32, device="cpu")
    except EvalkitError as error:
        found.steps["model"] = f"refused: {error}"
        return found
    head.WHOLE_TOKENS, head.CHUNK_TOKENS = whole_tokens, whole_tokens // 4
    store = folder / "stores" / model_type
    shutil.rmtree(store, ignore_errors=True)
    with torch.inference_mode():
        found.hold("log-likelihoods", lambda: log_likelihoods(path, plain))
        found.hold("generation", lambda: greedy_tokens(path, plain))
        found.hold("long window", lambda: long_window(plain, whole_tokens))
    found.hold("plan", lambda: planned(found, path))
    with in_this_process() as watched, quick_gptq():
        compared(found, path, store, plain, watched)
    found.raw += watched.raw
    shutil.rmtree(store, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)
    return found


def plain_model(path: Path, **options: Any) -> PreTrainedModel:
    """The checkpoint as transformers alone loads it, in float32."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options)
    if not hasattr(model, "get_output_embeddings"):
        raise ValueError("no language model")
    return model.eval()


def log_likelihoods(path: Path, plain: PreTrainedModel) -> str:
    """Continuations behind shared prefixes score as each sequence does alone."""
    ids = ids_of(TEXT.read_text(encoding="utf-8"), 400)
    requests = [
        Request(ids[:shared], ids[start : start + length])
        for shared in (45, 60)
        for start, length in ((100, 3), (110, 9), (150, 30), (200, 1))
    ] + [Request(ids[200:230], ids[230:236])]
    lm = LocalLanguageModel(plain, load_tokenizer(path), batch_tokens=512)
    scores, _ = score_requests(lm.runner, requests, max_length=900)
    for request, score in zip(requests, scores, strict=True):
        whole = [*request.context, *request.continuation]
        count = len(request.continuation)
        nll = _nll(plain(input_ids=torch.tensor([whole])).logits[0], whole)[-count:]
        wanted = -float(nll.sum())
        if not _close(score.log_likelihood, wanted):
            return f"a log-likelihood is {score.log_likelihood:.5f}, alone it is {wanted:.5f}"
    return ""


def greedy_tokens(path: Path, plain: PreTrainedModel) -> str:
    """Prompts of one prefix are gone on with as `generate` goes on with each alone."""
    tokenizer = load_tokenizer(path)
    ids = ids_of(TEXT.read_text(encoding="utf-8"), 200)
    prompts = [ids[:50], [*ids[:40], *ids[60:75]], ids[100:112]]
    lm = LocalLanguageModel(plain, tokenizer, batch_tokens=512)
    decoding = Decoding(8, options={"do_sample": False})
    texts = generate_texts(lm.runner, tokenizer, prompts, decoding, seeds=[0] * 3)
    for prompt, text in zip(prompts, texts, strict=True):
        given = torch.tensor([prompt])
        wanted = plain.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=8, do_sample=False
        )[0, len(prompt) :]
        alone = tokenizer.decode(wanted, skip_special_tokens=True)
        if text != alone:
            return f"{text!r} is generated, alone it is {alone!r}"
    return ""


def long_window(plain: PreTrainedModel, whole_tokens: int) -> str:
    """A window that is read in chunks has the logits of one pass."""
    limit = getattr(plain.config.get_text_config(), "max_position_embeddings", None)
    length = whole_tokens + whole_tokens // 8
    if isinstance(limit, int) and 0 < limit < length:
        return ""
    ids = torch.tensor([ids_of(TEXT.read_text(encoding="utf-8"), length)])
    forward = head.open_forward(plain, ids[0, :16])
    rows = forward.rows(ids)[0, -64:]
    own, wanted = forward.logits(rows), plain(input_ids=ids).logits[0, -64:]
    difference = float((own - wanted).abs().max() / wanted.abs().max())
    return "" if difference < 1e-3 else f"logits differ by {difference:.2g} of the largest"


def planned(found: Findings, path: Path) -> str:
    """The plan counts the bytes of the checkpoint, and is valid JSON."""
    plan = api.plan("fp32", "fp16", *VARIANTS[1:], model=str(path))
    shown = render(plan, "json")
    if "Infinity" in shown or "NaN" in shown:
        return "its JSON holds Infinity or NaN"
    wanted = 4 * found.parameters
    for row in plan.rows:
        if row.variant == "fp32" and row.memory.weights.total != wanted:
            return f"fp32 takes {row.memory.weights.total:.0f} bytes, counted {wanted}"
    if any(label == "fp32" for label, _ in plan.refused):
        return "fp32 is refused"
    return ""


def compared(
    found: Findings, path: Path, store: Path, plain: PreTrainedModel, watched: Watched
) -> None:
    """`evalkit compare`: every row is ok, or says in one line what to do, which then works."""
    try:
        rows = _compare(path, store, VARIANTS[:-1])
        if rows[0].status == "ok":
            found.hold("perplexity", lambda: _perplexity(rows[0], store, plain))
        rows += _compare(path, store, ("fp32", VARIANTS[-1]))[1:]
    except EvalkitError as error:
        found.steps["compare"] = f"refused: {error}"
        return
    except Exception as error:
        found.raw.append(f"compare: {type(error).__name__}: {error}"[:400])
        found.steps["compare"] = found.raw[-1]
        return
    for asked, row in zip(VARIANTS, rows, strict=True):
        found.steps[asked] = "ok" if row.status == "ok" else row.message
        if row.status != "ok":
            _follow_advice(found, path, store, asked, row.message)
            continue
        if asked != "fp32":
            found.packed[asked] = round(_of(watched.packed, row.variant.text), 3)
            if found.packed[asked] < PACKED_SHARE:
                share = f"{found.packed[asked]:.0%}"
                found.steps[asked] = f"only {share} of the linear weights are packed"
        size, counted = (
            row.metrics["weight_bytes"].value,
            _of(watched.weight_bytes, row.variant.text),
        )
        if asked == "fp32" and size != counted:
            found.wrong.append(f"{asked} is said to take {size} bytes, counted {counted}")
    found.int4 = rows[-1].variant.text if rows[-1].status == "ok" else ""
    refused = gptq_refusal(path)
    if refused:
        found.steps["int4@gptq"] = refused
        _follow_advice(found, path, store, "int4@gptq", refused)


def gptq_refusal(path: Path) -> str:
    """Why GPTQ in groups of 64 is refused, and what to use instead; "" where it is not."""
    variant = parse_variant("int4@gptq,group_size=64")
    try:
        gptq.check(resolve_model(str(path)), variant)
    except EvalkitError as error:
        return str(error)
    return ""


@contextlib.contextmanager
def quick_gptq() -> Iterator[None]:
    """Little calibration, from a file: what GPTQ makes of random weights is not the question."""
    own = gptq.SPEC
    options = tuple(
        dataclasses.replace(option, default=_QUICK.get(option.name, option.default))
        for option in own.options
    )
    gptq.SPEC = dataclasses.replace(own, options=options)
    try:
        yield
    finally:
        gptq.SPEC = own


def _of(counts: Mapping[str, Any], resolved: str) -> Any:
    return next((count for text, count in counts.items() if _is(text, resolved)), 0)


def _is(text: str, asked: str) -> bool:
    one, other = parse_variant(text), parse_variant(asked)
    return (one.precision, one.backend) == (other.precision, other.backend)


def _compare(path: Path, store: Path, variants: tuple[str, ...]) -> Any:
    text = store.with_suffix(".txt")
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text(TEXT.read_text(encoding="utf-8")[:4000].replace("<|endoftext|>", ""))
    return api.compare(
        *variants,
        model=str(path),
        text=[str(text)],
        tasks=["demo_where", "demo_sums"],
        include_path=TASKS,
        data=TASKS,
        limit=4,
        context=200,
        out=store,
        device="cpu",
        offline=True,
        progress=lambda event: None,
    ).rows


def _follow_advice(found: Findings, path: Path, store: Path, asked: str, message: str) -> None:
    """Try what the line of a failed row advises, up to the first that works."""
    advised = _ADVISED.findall(_after_use(message))
    quantized = [_spelled(word, asked) for word in advised if word.startswith(("int", "group"))]
    if not quantized:
        if not advised and "leave this model in 16 bit" not in message:
            found.bad_advice.append(f"{asked}: no advice in {message!r}"[:300])
        return
    for variant in dict.fromkeys(quantized):
        row = _compare(path, store, ("fp32", variant))[1]
        if row.status == "ok":
            found.steps[asked] += f" [{variant} works]"
            return
        found.bad_advice.append(f"{asked}: {variant} was advised and fails: {row.message}"[:400])


def _after_use(message: str) -> str:
    """What follows the advice's verb."""
    return re.split(r"\b(?:use|try|give|choose)\b", f"{message} use ", maxsplit=1)[1]


def _spelled(word: str, asked: str) -> str:
    return f"{asked.partition(',')[0]},{word}" if word.startswith("group_size") else word


def _perplexity(row: Any, store: Path, plain: PreTrainedModel) -> str:
    """The baseline's perplexity over the stored windows, by plain transformers."""
    windows = Windows.load(next((store / "windows").glob("*.npz")))
    total = count = 0.0
    with torch.inference_mode():
        for index in range(len(windows)):
            ids = [int(token) for token in windows.window(index)]
            nll = _nll(plain(input_ids=torch.tensor([ids])).logits[0], ids)
            scored = nll[int(windows.score_from[index]) - 1 :]
            total, count = total + float(scored.sum()), count + len(scored)
    wanted = math.exp(total / count)
    value = row.metrics["perplexity"].value
    return "" if _close(value, wanted) else f"perplexity is {value:.5f}, plainly {wanted:.5f}"


def _nll(logits: Tensor, ids: list[int]) -> Tensor:
    """Negative log-likelihood of every token but the first, from logits (length, vocabulary)."""
    targets = torch.tensor(ids[1:])[:, None]
    return -logits[:-1].float().log_softmax(-1).gather(1, targets)[:, 0]


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE * max(1.0, abs(other))
