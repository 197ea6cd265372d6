"""What a model needs in memory: weights, KV cache, activations and the runtime around them.

Everything follows from the architecture (`ModelShape`) and from how a backend stores a linear
layer (`Scheme`); nothing is loaded and torch is not needed.

Prefill reads the prompt in one pass, so its activations grow with the tokens of the pass; decode
holds those of one token a sequence, and for a moment a second copy of one layer's cache, which
grows by concatenation. Both are sums over the tensors alive at one moment of the forward pass:
at every operation, bytes are a polynomial in the batch and the length (`Growth`), and the peak is
the largest of them. The residual stream, the normed input, queries, keys and values, the
intermediate tensors of the MLP and the float32 logits of the last position are all among them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from evalkit.analysis.architecture import Linear, ModelShape, Moment
from evalkit.analysis.cache_formats import CacheFormat


@dataclass(frozen=True)
class Work:
    """Bytes that the kernel of a linear layer holds beside its input and output.

    For each input and each output of each token and, for more than one token, for each weight (an
    unpacked copy). A kernel of whole tiles stores its weights padded to multiples of outputs and
    inputs: those of `tiles` that make them least.
    """

    input: float = 0.0
    output: float = 0.0
    weight: float = 0.0
    tiles: tuple[tuple[int, int], ...] = ()


NO_WORK = Work()


@dataclass(frozen=True)
class Scheme:
    """How a backend stores a linear layer of the decoder, and how it computes with it.

    `bits` a weight; 16 or more is unquantized. `group_size` inputs share a scale of `scale_bytes`
    and, where `zero_bits` is not 0, a zero point; group size 0 is one scale an output.
    `layer_bytes` is a constant a layer (a codebook), `input_bytes` stand beside each of its inputs
    (the index of a group). Everything else has `rest_bytes` an element, or `embedding_bits` and
    `head_bits` where embedding and output head are packed as well.

    `cuda` and `cpu` are the buffers and tiles of the kernels there. `int8` says that activations
    have 8 bit too: products run at the card's rate of INT8, which is that of FP8 where it has it.
    `fraction` of the decode roofline is what to expect at batch 1, as `source` found it. `cache` is
    the format of a quantized KV cache; without one keys and values have `rest_bytes` an element.
    `modules` are layers that are stored otherwise, by name.
    """

    title: str
    bits: float
    fraction: float
    source: str
    group_size: int = 0
    scale_bytes: float = 0.0
    zero_bits: float = 0.0
    layer_bytes: float = 0.0
    input_bytes: float = 0.0
    rest_bytes: int = 2
    embedding_bits: float = 0.0
    head_bits: float = 0.0
    int8: bool = False
    cuda: Work = NO_WORK
    cpu: Work = NO_WORK
    cache: CacheFormat | None = None
    modules: Mapping[str, Scheme] = field(default_factory=dict)

    @property
    def quantized(self) -> bool:
        """Whether linear layers are packed in fewer than 16 bits."""
        return self.bits < 16 or any(own.bits < 16 for own in self.modules.values())


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of weights by category; `rest` is everything held in 16 or 32 bit.

    `scales` are all that is held beside packed weights and zero points: codebooks and indexes too.
    """

    packed: float
    scales: float
    zeros: float
    rest: float

    @property
    def total(self) -> float:
        """Bytes of all weights."""
        return self.quantized + self.rest

    @property
    def quantized(self) -> float:
        """Bytes of the quantized matrices: packed weights and what unpacking reads."""
        return self.packed + self.scales + self.zeros


@dataclass(frozen=True)
class Runtime:
    """Memory around the model's tensors on one kind of device.

    `fixed` bytes are there whatever runs; `source` says how they were found.
    """

    name: str
    fixed: float
    source: str


CUDA = Runtime(
    "CUDA",
    0.5e9,
    "context of the driver and libraries with kernels loaded lazily, and the workspace of the"
    " matrix library: an estimate",
)
CPU = Runtime(
    "CPU",
    2.5e6,
    "the model's Python objects and small buffers, measured by benchmarks/memory.py",
)


def weight_bytes(shape: ModelShape, scheme: Scheme, work: Work = NO_WORK) -> WeightBytes:
    """Bytes of all weights of `shape` stored by `scheme`, in tiles as the kernels of `work` ask."""
    if not scheme.quantized:
        return WeightBytes(0.0, 0.0, 0.0, shape.parameters * scheme.bits / 8)
    stored = [
        linear_bytes(linear, scheme.modules.get(linear.name, scheme), work)
        for linear in shape.linears
    ]
    return WeightBytes(
        packed=math.fsum(one.packed for one in stored),
        scales=math.fsum(one.scales for one in stored),
        zeros=math.fsum(one.zeros for one in stored),
        rest=math.fsum(one.rest for one in stored) + _rest_bytes(shape, scheme),
    )


def linear_bytes(linear: Linear, scheme: Scheme, work: Work = NO_WORK) -> WeightBytes:
    """Bytes of the weights of one linear layer stored by `scheme`, without its bias."""
    if scheme.bits >= 16:
        return WeightBytes(0.0, 0.0, 0.0, linear.outputs * linear.inputs * scheme.bits / 8)
    rows, width = _padded(linear.outputs, linear.inputs, work)
    groups = rows * math.ceil(width / (scheme.group_size or width))
    return WeightBytes(
        packed=rows * width * scheme.bits / 8,
        scales=groups * scheme.scale_bytes + scheme.layer_bytes + width * scheme.input_bytes,
        zeros=groups * scheme.zero_bits / 8,
        rest=0.0,
    )


def _rest_bytes(shape: ModelShape, scheme: Scheme) -> float:
    """Bytes of what is no linear layer."""
    plain = shape.parameters - shape.linear_elements
    if not scheme.embedding_bits:
        return float(plain * scheme.rest_bytes)
    # A tied embedding is held once, as the head is.
    embedding = 0 if shape.tied else shape.embedding
    packed = embedding * scheme.embedding_bits + shape.head * scheme.head_bits
    return (plain - embedding - shape.head) * 4.0 + packed / 8


def _padded(outputs: int, inputs: int, work: Work) -> tuple[int, int]:
    """Outputs and inputs of a layer as it is stored."""
    sizes = [
        (math.ceil(outputs / rows) * rows, math.ceil(inputs / columns) * columns)
        for rows, columns in work.tiles or ((1, 1),)
    ]
    return min(sizes, key=math.prod)


def read_bytes(shape: ModelShape, scheme: Scheme, batch: int) -> float:
    """Bytes of weights that one decode step of `batch` sequences reads on a GPU.

    Of an embedding that is not also the head, only a row a token is read; of experts, those that
    `batch` tokens reach when they choose evenly.
    """
    unread = 0.0 if shape.tied else float(max(0, shape.embedding - batch * shape.hidden))
    unread += shape.experts * (1 - shape.expert_share) ** batch
    element = scheme.rest_bytes if scheme.quantized else scheme.bits / 8
    return weight_bytes(shape, scheme, scheme.cuda).total - unread * element


def kv_cache_bytes(shape: ModelShape, scheme: Scheme, batch: int, length: int) -> float:
    """Bytes of keys, values and states of `batch` sequences of `length` tokens."""
    tokens = sum(a.layers * a.cached * a.kept(length) for a in shape.attention)
    return batch * (tokens * cached_bytes(shape, scheme) + shape.state * scheme.rest_bytes)


def kv_bytes_per_token(shape: ModelShape, scheme: Scheme) -> float:
    """Bytes of keys and values that each further token of a short sequence adds."""
    return sum(a.layers * a.cached for a in shape.attention) * cached_bytes(shape, scheme)


def cached_bytes(shape: ModelShape, scheme: Scheme) -> float:
    """Bytes of an element of keys and values, scales included."""
    if scheme.cache is None:
        return float(scheme.rest_bytes)
    return scheme.cache.channel_bytes(shape.head_dim)


def prefill_bytes(
    shape: ModelShape, scheme: Scheme, batch: int, length: int, work: Work = NO_WORK
) -> float:
    """Peak bytes of activations while prompts of `batch` × `length` tokens are read in one pass."""
    peak = _peak(shape.prefill[scheme.rest_bytes], work, batch, length, batch * length)
    mask = shape.sparse_mask
    if mask is None or not mask.elements(length):
        return peak
    elements = mask.elements(length)
    made = elements * (scheme.rest_bytes + mask.booleans)
    return float(max(peak + elements * scheme.rest_bytes, made))


def decode_bytes(
    shape: ModelShape, scheme: Scheme, batch: int, length: int, work: Work = NO_WORK
) -> float:
    """Peak bytes of activations of a decode step behind `length` cached tokens."""
    return _peak(shape.decode[scheme.rest_bytes], work, batch, length, batch)


def _peak(moments: tuple[Moment, ...], work: Work, batch: int, length: int, tokens: int) -> float:
    def bytes_at(moment: Moment) -> float:
        buffers = tokens * (moment.inputs * work.input + moment.outputs * work.output)
        copy = moment.inputs * moment.outputs * work.weight if tokens > 1 else 0.0
        return moment.growth(batch, length) + buffers + copy

    return max(map(bytes_at, moments))
