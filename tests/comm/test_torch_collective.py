"""Ranks in processes of their own, over gloo: sums, gathers, and what is left when one is gone."""

import os
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tp.process_ranks import run_ranks

from engine.comm.torch_collective import FOREVER, GROUPS, TorchCollective
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


class FakeNccl:
    """Two ranks that give the same; its work is waited for as NCCL's must be."""

    def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        assert isinstance(store, torch.distributed.Store)
        assert timeout == FOREVER, "an idle rank would end"
        self.rank, self.size = rank, size
        self.said: list[str] = []

    def _note(self, what: str) -> SimpleNamespace:
        self.said.append(what)

        def wait() -> None:
            """Takes no timeout: with one, the host would wait for the GPU."""

        return SimpleNamespace(wait=wait)

    def allreduce(self, tensors: list[torch.Tensor]) -> SimpleNamespace:
        assert tensors[0].dtype == torch.float32
        return self._note(f"sum {[*tensors[0].shape]}")

    def send(self, tensors: list[torch.Tensor], to: int, tag: int) -> SimpleNamespace:
        return self._note(f"send {[*tensors[0].shape]} {to}")

    def recv(self, tensors: list[torch.Tensor], source: int, tag: int) -> SimpleNamespace:
        return self._note(f"recv {[*tensors[0].shape]} {source}")


class FakeGloo(FakeNccl):
    def __init__(self, store: Any, rank: int, size: int) -> None:
        super().__init__(store, rank, size, FOREVER)


def with_nccl(monkeypatch: pytest.MonkeyPatch, rank: int) -> TorchCollective:
    """As for a rank on ``cuda``, but what lies there is on torch's device without memory: a tensor
    that nobody can read, so that whoever reads one on the host fails."""
    monkeypatch.setattr(torch.distributed, "ProcessGroupNCCL", FakeNccl, raising=False)
    monkeypatch.setitem(GROUPS, "cpu", FakeGloo)
    monkeypatch.setitem(GROUPS, "meta", GROUPS["cuda"])
    return TorchCollective(os.memfd_create("lendkv-test-ranks"), rank, 2, "meta:1")


@pytest.mark.parametrize("rank", [0, 1])
def test_what_lies_on_a_gpu_goes_over_nccl_and_all_else_over_gloo(
    monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    collective = with_nccl(monkeypatch, rank)
    nccl, gloo = collective._groups["meta"], collective._groups["cpu"]
    assert type(nccl) is FakeNccl
    hidden_TE = torch.empty(5, 8, dtype=torch.bfloat16, device="meta")
    assert collective.sum(hidden_TE).dtype == torch.bfloat16
    logits_NV = collective.gather(torch.empty(3, [4, 2][rank], device="meta"), [4, 2])
    assert logits_NV.shape == (3, [6, 2][rank])
    assert nccl.said == ["sum [5, 8]", ["recv [3, 2] 1", "send [3, 2] 0"][rank]]
    assert gloo.said == []
    collective.sum(torch.ones(2))
    assert gloo.said == ["sum [2]"]
    assert len(nccl.said) == 2


def test_a_rank_on_the_cpu_has_no_group_of_a_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.distributed, "ProcessGroupNCCL", raising=False)
    collective = TorchCollective(os.memfd_create("lendkv-test-ranks"), 0, 1, "cpu")
    assert collective._groups.keys() == {"cpu"}
    assert collective.sum(torch.ones(2)).tolist() == [1.0, 1.0]


def test_an_error_of_nccl_is_a_lost_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    collective = with_nccl(monkeypatch, 0)

    def fail(tensors: Any) -> Any:
        raise torch.distributed.DistBackendError("NCCL error in: here\nmore of it")

    monkeypatch.setattr(collective._groups["meta"], "allreduce", fail, raising=False)
    with pytest.raises(PeerLost, match=r"rank 0 of 2 has lost another: NCCL error in: here$"):
        collective.sum(torch.empty(1, device="meta"))
