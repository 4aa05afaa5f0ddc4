"""Ranks in processes of their own, over gloo: sums, gathers, and what is left when one is gone."""

import os
from typing import Any

import pytest
import torch
from tp.process_ranks import run_ranks

from engine.comm.torch_collective import TorchCollective
from engine.errors import PeerLost

WIDTHS = [3, 2, 2]


def sums(collective: TorchCollective) -> Any:
    """As numbers and lists: tensors would travel through shared memory."""
    rows = torch.randn(37, 64, generator=torch.Generator().manual_seed(collective.rank))
    whole = torch.arange(5) * 10**collective.rank
    every = (collective.sum(rows), collective.sum(rows.bfloat16()), collective.sum(whole))
    assert [one.dtype for one in every] == [torch.float32, torch.bfloat16, torch.int64]
    return [one.tolist() for one in every]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_sums_have_the_same_bits_everywhere(size: int) -> None:
    found = run_ranks(sums, size)
    parts = [torch.randn(37, 64, generator=torch.Generator().manual_seed(r)) for r in range(size)]
    wanted = torch.stack(parts).double().sum(0)
    torch.testing.assert_close(torch.tensor(found[0][0]).double(), wanted, rtol=1e-6, atol=1e-6)
    halves = torch.stack([part.bfloat16().double() for part in parts]).sum(0)
    assert torch.equal(torch.tensor(found[0][1]), halves.float().bfloat16().float())
    assert found[0][2] == [number * int("1" * size) for number in range(5)]
    assert all(other == found[0] for other in found)


def gathers(collective: TorchCollective, rows: int) -> Any:
    own = torch.full((rows, WIDTHS[collective.rank]), float(collective.rank))
    found = collective.gather(own, WIDTHS)
    assert found.shape == (rows, 7 if collective.rank == 0 else 2)
    return found.tolist()


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_rank_0_gathers_columns_of_different_widths(rows: int) -> None:
    whole, *_ = run_ranks(gathers, 3, rows)
    assert whole == [[0.0] * 3 + [1.0] * 2 + [2.0] * 2] * rows


def one_dies(collective: TorchCollective) -> str:
    collective.sum(torch.ones(3))
    if collective.rank == 1:
        os._exit(9)
    with pytest.raises(PeerLost, match=f"rank {collective.rank} of 3 has lost another"):
        collective.sum(torch.ones(3))
    return "noticed"


def test_a_rank_that_dies_is_lost_to_all_others() -> None:
    assert run_ranks(one_dies, 3, dead=[1]) == ["noticed", None, "noticed"]
