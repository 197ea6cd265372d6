"""A model in a server: vLLM, TensorRT-LLM, SGLang, llama.cpp, or any OpenAI-compatible one.

`served@endpoint,url=http://HOST:PORT,model=NAME` is measured through HTTP; nothing is loaded here.
`--model` names the checkpoint that the server serves: its tokenizer makes the prompts.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

from evalkit.backends._spec import BackendSpec, Option, resolved_options
from evalkit.errors import UsageError, VariantError
from evalkit.records import Variant
from evalkit.serving.http import Address, parse_url

if TYPE_CHECKING:
    from evalkit.analysis.footprint import Scheme
    from evalkit.models.checkpoint import Checkpoint
    from evalkit.models.loading import Loaded

SPEC = BackendSpec(
    name="endpoint",
    summary="a model in a server with an OpenAI-compatible API (vLLM, TensorRT-LLM, …), by its URL",
    precisions=("served",),
    options=(
        Option("url", "", "http://HOST:PORT, or up to /v1 where the API lies elsewhere"),
        Option("model", "", "the model's name in the server; by default its first"),
        Option("key_env", "", "name of the environment variable that holds the key"),
        Option("timeout", 120.0, "seconds for one answer", minimum=1.0, maximum=3600.0),
        Option("parallel", 4, "requests at once while quality is measured", minimum=1, maximum=64),
    ),
    served=True,
)


def address_of(variant: Variant) -> Address:
    """Where the variant's server is; raises UsageError for a URL that cannot be one."""
    options = resolved_options(SPEC, variant)
    if not options["url"]:
        raise UsageError(
            f"{variant.text} names no server: write served@endpoint,url=http://HOST:PORT"
        )
    name = str(options["key_env"])
    if name and not name.replace("_", "").isalnum():
        raise UsageError(
            "key_env= takes the NAME of an environment variable, not the key itself: write "
            "key_env=VLLM_API_KEY"
        )
    return Address(parse_url(str(options["url"])), name, float(options["timeout"]))


def check(checkpoint: Checkpoint, variant: Variant) -> None:
    """Raise VariantError where the words name no server, or a key that is not set."""
    address = address_of(variant)
    if address.key_variable and not os.environ.get(address.key_variable):
        raise VariantError(f"the environment variable {address.key_variable} is not set")


def scheme(variant: Variant) -> Scheme:
    """Raise VariantError: how a server stores weights is not known here."""
    _not_here(variant)


def load(*_: object, **__: object) -> Loaded:
    """Raise VariantError: nothing of a server is loaded here."""
    raise VariantError(
        "a served model is measured where it is: use compare, bench or lm-eval's own"
    )


def _not_here(variant: Variant) -> NoReturn:
    raise VariantError(
        f"{variant.text} runs in a server, whose memory is not known here: plan the variant that "
        "it serves, such as fp16 or int4"
    )
