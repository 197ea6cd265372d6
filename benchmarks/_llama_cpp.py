"""Greedy decode by llama.cpp, for benchmarks/decode.py: _llama_cpp.py FILE PROMPT TOKENS THREADS.

Runs in an environment with llama-cpp-python. For every line on its input it prints the seconds of
one generation, prompt included.
"""

from __future__ import annotations

import itertools
import sys
import time

from llama_cpp import Llama


def main(file: str, prompt: int, tokens: int, threads: int) -> None:
    model = Llama(
        file, n_ctx=prompt + tokens + 8, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    ids = [3 + number for number in range(prompt)]
    print("ready", flush=True)
    for _ in sys.stdin:
        model.reset()
        start = time.perf_counter()
        made = list(itertools.islice(model.generate(ids, temp=0.0, reset=True), tokens))
        assert len(made) == tokens
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
