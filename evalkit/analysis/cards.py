"""GPUs by name: what the planner and the roofline need to know of a card.

Figures are the manufacturer's: memory bandwidth, dense tensor throughput (no sparsity) in FP16
with FP32 accumulation, as matrix libraries use it, and in INT8, and board power. Memory is what
the driver reports with the card's usual setting of error correction, a little under the figure in
its name.
"""

from __future__ import annotations

from dataclasses import dataclass

from evalkit.errors import unknown

_ADA = "NVIDIA Ada GPU Architecture whitepaper, appendix A"
_AMPERE = "NVIDIA Ampere GA102 GPU Architecture whitepaper, appendix A"
_BLACKWELL = "NVIDIA RTX Blackwell GPU Architecture whitepaper, appendix A"
_MIB = 2**20


@dataclass(frozen=True)
class Card:
    """A GPU: bytes, bytes/s, FP16 and INT8 tensor operations/s, watts of board power.

    `drivers` are the names the driver gives it, without "NVIDIA".
    """

    name: str
    title: str
    memory: float
    bandwidth: float
    flops: float
    int8_operations: float
    watts: float
    source: str
    drivers: tuple[str, ...]


def _card(
    title: str,
    memory: int,
    gigabytes: float,
    tera: tuple[float, float],
    watts: float,
    source: str,
    *drivers: str,
) -> Card:
    """A card of `memory` MiB, GB/s of bandwidth and 10^12 operations/s in FP16 and INT8."""
    name = title.removeprefix("GeForce ").removeprefix("Tesla ").lower().replace(" ", "-")
    return Card(
        name, title, memory * _MIB, gigabytes * 1e9, tera[0] * 1e12, tera[1] * 1e12, watts,
        source, drivers or (title,),
    )  # fmt: skip


CARDS = {
    card.name: card
    for card in (
        _card("GeForce RTX 3090", 24576, 936, (71, 284), 350, _AMPERE),
        _card("GeForce RTX 4080", 16376, 716.8, (97.5, 389.9), 320, _ADA),
        _card("GeForce RTX 4090", 24564, 1008, (165.2, 660.6), 450, _ADA),
        _card("GeForce RTX 5090", 32607, 1792, (209.5, 838), 575, _BLACKWELL),
        _card("RTX A6000", 49140, 768, (154.8, 309.7), 300, "NVIDIA RTX A6000 datasheet"),
        _card("Tesla T4", 15360, 320, (65, 130), 70, "NVIDIA T4 datasheet"),
        _card("A10", 23028, 600, (125, 250), 150, "NVIDIA A10 datasheet"),
        _card("L4", 23034, 300, (121, 242), 72, "NVIDIA L4 datasheet"),
        _card("L40S", 46068, 864, (362, 733), 350, "NVIDIA L40S datasheet"),
        _card(
            "A100 40GB", 40960, 1555, (312, 624), 400, "NVIDIA A100 datasheet",
            "A100-SXM4-40GB", "A100-PCIE-40GB",
        ),
        _card("A100 80GB", 81920, 2039, (312, 624), 400, "NVIDIA A100 datasheet", "A100-SXM4-80GB"),
        _card("H100 PCIe", 81559, 2000, (756, 1513), 350, "NVIDIA H100 datasheet"),
        _card("H100 SXM", 81559, 3350, (989, 1979), 700, "NVIDIA H100 datasheet", "H100 80GB HBM3"),
        _card("H200", 143771, 4800, (989, 1979), 700, "NVIDIA H200 datasheet"),
    )
}  # fmt: skip


def find_card(name: str) -> Card:
    """The card called `name` ("rtx-4090"); raises UsageError with a suggestion."""
    key = name.strip().lower().replace(" ", "-").replace("_", "-")
    if key not in CARDS:
        raise unknown("GPU", name, CARDS)
    return CARDS[key]


def card_of_driver(title: str) -> Card | None:
    """The card a driver's name such as "NVIDIA GeForce RTX 4090" stands for, or None.

    `title` may be the name of a machine that ends with it ("…, NVIDIA L4 [1a2b3c4d]"). The whole
    name must match: "RTX 4090 Laptop GPU" and "RTX 4080 SUPER" are other cards.
    """
    last = title.partition(" [")[0].rpartition(", ")[2]
    words = last.casefold().removeprefix("nvidia ").strip()
    found = (c for c in CARDS.values() if words in {name.casefold() for name in c.drivers})
    return next(found, None)
