"""A variant of a model as an lm-eval model: `lm_eval --model evalkit --model_args …`."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from evalkit.backends import parse_variant
from evalkit.declaration import resolved
from evalkit.errors import VariantError, unknown
from evalkit.options import LoadOptions
from evalkit.progress import live
from evalkit.running.build_job import build_job, resolve_subject
from evalkit.running.environment import gpu_names
from evalkit.running.gpus import resolve_device
from evalkit.running.job import Job
from evalkit.running.process import show_gpu
from evalkit.running.quantize import make_checkpoint
from evalkit.running.session import LoadedSession, loaded, open_variant
from evalkit.tasks.local_model import LocalLanguageModel

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

_SOFTMAX_TYPES = {"float32": torch.float32, "logits": None}
_ENGINE_OPTIONS = {
    "cache_tokens", "max_length", "max_gen_toks", "add_bos_token", "prefix_token_id", "double_bos",
    "chat_template_args",
}  # fmt: skip
_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


class EvalkitModel(LocalLanguageModel):
    """`LocalLanguageModel` made from words; quantized checkpoints are kept in the store and reused.

    lm-eval asks the requests of all tasks together. They are answered task by task, as in `evalkit
    compare`: in LLM.int8() answers depend on what is batched together.
    """

    def __init__(
        self,
        pretrained: str,
        variant: str = "fp16",
        *,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        batch_tokens: int | None = None,
        softmax_dtype: str = "float32",
        out: str | None = None,
        seed: int = 0,
        offline: bool = False,
        allow_pickle: bool = False,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> None:
        """Resolve, if need be quantize, and load `variant` of the model `pretrained`.

        Args:
            pretrained: what `evalkit compare --model` takes.
            variant: what `evalkit compare` takes; its options may follow it as arguments of their
                own (`variant=int4@gptq,group_size=64`), as lm-eval splits at commas.
            device: "auto" by default.
            batch_size: has no effect, as batches are filled by tokens; said on stderr if given.
            max_batch_size: likewise.
            batch_tokens: tokens of one forward pass; by default that of `evalkit compare`.
            softmax_dtype: "float32", or "logits" to keep the type of the logits as lm-eval does.
            out: the store of quantized checkpoints.
            seed: of the calibration sample.
            offline: use only what is on this machine.
            allow_pickle: load pickled weights.
            trust_remote_code: run the checkpoint's own code.
            options: further arguments of `LocalLanguageModel` (max_length, double_bos, …) and
                options of the variant.

        Raises UsageError for an argument that is neither.
        """
        if softmax_dtype not in _SOFTMAX_TYPES:
            raise unknown("softmax_dtype", softmax_dtype, _SOFTMAX_TYPES)
        if batch_size not in (None, 1, "1", "auto") or max_batch_size is not None:
            _log.warning("batches are filled by tokens: use batch_tokens, not batch_size")
        own = {name: options.pop(name) for name in _ENGINE_OPTIONS & set(options)}
        words = [variant, *(f"{name}={_word(value)}" for name, value in options.items())]
        given = LoadOptions(
            model=pretrained,
            device=_device(device),
            seed=seed,
            out=out,
            offline=offline,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )
        subject = resolve_subject(resolved(LoadOptions, given))
        # Here the model runs in lm-eval's own process, which has not begun CUDA yet.
        if subject.gpu:
            show_gpu(subject.gpu)
        # Kept open for as long as the process runs.
        self._open = contextlib.ExitStack()
        session = _opened(build_job(subject, parse_variant(",".join(words))), self._open)
        super().__init__(
            session.scoring_model,
            session.tokenizer,
            batch_tokens=batch_tokens or subject.settings.batch_tokens,
            softmax_dtype=_SOFTMAX_TYPES[softmax_dtype],
            show_progress=True,
            **own,
        )
        _log.info("%s of %s runs on %s", session.job.variant.text, pretrained, session.kernel)
        for note in session.quality_notes:
            _log.info(note)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """See LocalLanguageModel."""
        return _by_task(super().loglikelihood, requests, disable_tqdm)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """See LocalLanguageModel."""
        return _by_task(super().loglikelihood_rolling, requests, disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """See LocalLanguageModel."""
        return _by_task(super().generate_until, requests, disable_tqdm)


def _by_task(
    ask: Callable[[list[Instance], bool], list[_Answer]],
    requests: list[Instance],
    disable_tqdm: bool,
) -> list[_Answer]:
    """The answers in the order of `requests`, asked task by task."""
    tasks: dict[str | None, list[int]] = defaultdict(list)
    for index, request in enumerate(requests):
        tasks[request.task_name].append(index)
    answers: dict[int, _Answer] = {}
    for members in tasks.values():
        answers.update(zip(members, ask([requests[i] for i in members], disable_tqdm), strict=True))
    return [answers[index] for index in range(len(requests))]


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _device(asked: str | None) -> str:
    # lm-eval's command line says "cuda:0" where the user said nothing.
    if asked == "cuda:0" and not gpu_names():
        _log.warning("there is no NVIDIA GPU: running on the CPU")
        return "cpu"
    return resolve_device(asked or "auto")


def _opened(job: Job, stack: contextlib.ExitStack) -> LoadedSession:
    """The variant, made if need be and loaded until `stack` is closed."""
    if job.refusal:
        raise VariantError(job.refusal)
    with live(show=False) as listener:
        make_checkpoint(job, listener)
        return loaded(stack.enter_context(open_variant(job, listener)))
