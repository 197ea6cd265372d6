"""llama.cpp through llama-cpp-python (extra `gguf`): what runs a GGUF file, and makes K-quants."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import time
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import VariantError

if TYPE_CHECKING:
    from evalkit.inference.timing import GenerationTime

DISTRIBUTION = "llama-cpp-python"
INSTALL = "pip install 'evalkit[gguf]'"
_BUILD = f"CMAKE_ARGS=-DGGML_CUDA=on pip install --force-reinstall --no-cache-dir {DISTRIBUTION}"
_BATCH = 512


def installed() -> bool:
    """Whether the bindings are there; imports nothing."""
    return importlib.util.find_spec("llama_cpp") is not None


def why_not_timed(device: str) -> str:
    """Why llama.cpp cannot be timed on `device`, behind "speed not measured"; "" where it can."""
    if not installed():
        return f"llama.cpp's own is measured with {DISTRIBUTION}: {INSTALL}"
    import llama_cpp

    if device != "cpu" and not llama_cpp.llama_supports_gpu_offload():
        return f"this {DISTRIBUTION} is built without CUDA: {_BUILD}"
    return ""


def engine_name(threads: int, device: str) -> str:
    """The engine in words, for a note of the row."""
    where = f"{threads} threads" if device == "cpu" else "all layers on the card"
    return f"llama.cpp ({DISTRIBUTION} {importlib.metadata.version(DISTRIBUTION)}, {where})"


class Engine:
    """The model of a file in llama.cpp, opened when it is first used.

    `threads` are those of the computation on a CPU; on a card all layers lie there.
    """

    def __init__(self, file: Path, device: str, threads: int) -> None:
        self.file, self.device, self.threads = file, device, threads
        self._room = 0

    def _open(self, room: int) -> Any:
        if room > self._room:
            # A context is made for a length; a longer one replaces it.
            vars(self).pop("_model", None)
            self._room = room
        return self._model

    @cached_property
    def _model(self) -> Any:
        from llama_cpp import Llama

        return Llama(
            str(self.file),
            n_ctx=self._room,
            n_batch=_BATCH,
            n_threads=self.threads,
            n_threads_batch=self.threads,
            n_gpu_layers=0 if self.device == "cpu" else -1,
            verbose=False,
        )

    def time_generation(self, prompt: int, generate: int) -> GenerationTime:
        """Seconds of reading `prompt` random tokens and of each of `generate` greedy steps."""
        import numpy as np

        from evalkit.inference.timing import GenerationTime

        model = self._open(prompt + generate)
        ids = np.random.default_rng(0).integers(model.n_vocab(), size=prompt).tolist()
        model.reset()
        marks = [time.perf_counter()]
        model.eval(ids)
        marks.append(time.perf_counter())
        for _ in range(generate):
            model.eval([self._best(model)])
            marks.append(time.perf_counter())
        prefill, *steps = (after - before for before, after in pairwise(marks))
        return GenerationTime(prefill, tuple(steps))

    @staticmethod
    def _best(model: Any) -> int:
        """The likeliest next token."""
        import numpy as np
        from llama_cpp import llama_get_logits_ith

        logits = llama_get_logits_ith(model.ctx, -1)
        return int(np.ctypeslib.as_array(logits, shape=(model.n_vocab(),)).argmax())


def quantize_file(source: Path, out: Path, preset: str) -> None:
    """Let llama.cpp write the file `source` as `preset` ("Q4_K_M") into `out`."""
    import llama_cpp

    # It tells of every tensor; what became of them is read off the file.
    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{preset}")
    failed = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), parameters)
    if failed or not out.is_file():
        raise VariantError(f"llama.cpp could not write {preset} of {source}: error {failed}")
