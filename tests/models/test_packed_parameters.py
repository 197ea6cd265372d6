"""A packed parameter is the model's own code reading what it always read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evalkit.models.packed_parameters import Unpacking, pack, unpack_all, unpackings


class Halves(Unpacking):
    """Weights stored as whole numbers of halves; counts how often they are unpacked."""

    method = "halves"
    count = 0

    def forward(self, stored: Tensor) -> Tensor:
        self.count += 1
        return stored.to(self.dtype) / 2


class Experts(nn.Module):
    """A module that reads its matrices expert by expert."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.full((3, 2, 2), 1.5))
        self.other = nn.Parameter(torch.full((3, 2, 2), 2.5))

    def forward(self, inputs: Tensor) -> Tensor:
        for expert in range(3):
            inputs = inputs @ self.one[expert] @ self.other[expert]
        return inputs


def packed() -> tuple[nn.Sequential, Tensor, list[Halves]]:
    model, inputs = nn.Sequential(Experts()), torch.ones(1, 2)
    wanted = model(inputs)
    made = []
    for name in ("one", "other"):
        weights = getattr(model[0], name)
        made.append(Halves(weights.shape, torch.float32))
        pack(model[0], name, (weights.data * 2).to(torch.int8), made[-1])
    return model, wanted, made


def test_it_is_unpacked_once_in_a_pass_and_not_kept() -> None:
    model, wanted, made = packed()
    assert torch.equal(model(torch.ones(1, 2)), wanted)
    assert [one.count for one in made] == [1, 1]
    model(torch.ones(1, 2))
    assert [one.count for one in made] == [2, 2]
    assert {p.dtype for p in model.parameters()} == {torch.int8}


def test_its_full_name_is_the_parameters() -> None:
    model, _, made = packed()
    assert dict(unpackings(model)) == {"0.one": made[0], "0.other": made[1]}


def test_unpacking_all_leaves_plain_parameters() -> None:
    model, wanted, _ = packed()
    assert unpack_all(model, torch.float64)
    assert not any(unpackings(model))
    assert {name: p.dtype for name, p in model.named_parameters()} == {
        "0.one": torch.float64, "0.other": torch.float64
    }  # fmt: skip
    assert torch.equal(model(torch.ones(1, 2, dtype=torch.float64)).float(), wanted)
    assert not unpack_all(model, torch.float64)
