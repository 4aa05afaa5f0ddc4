"""CudaRecorder as far as that goes without a GPU: the order of its calls, and its failures."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from engine.model.cuda_graphs import CudaRecorder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []

    class Graph:
        def capture_begin(self, pool: object, capture_error_mode: str) -> None:
            found.append(f"begin {pool} {capture_error_mode}")

        def capture_end(self) -> None:
            found.append("end")
            if "fails" in found:
                raise RuntimeError("it was invalidated")

        def replay(self) -> None:
            found.append("replay")

    @contextmanager
    def stream(of: object) -> Iterator[None]:
        found.append(f"on {of}")
        yield
        found.append("off")

    cuda = SimpleNamespace(
        CUDAGraph=Graph,
        Stream=lambda device: f"a stream of {device}",
        graph_pool_handle=lambda: "pool",
        stream=stream,
        synchronize=lambda device: found.append("wait"),
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    return found


def test_what_is_recorded_runs_once_on_its_own_stream_and_is_replayed(calls: list[str]) -> None:
    replay = CudaRecorder("cuda:1")(lambda: calls.append("run"))
    on = "on a stream of cuda:1"
    assert calls == ["wait", on, "begin pool thread_local", "run", "end", "off"]
    replay()
    assert calls[-1] == "replay"


def test_what_cannot_be_recorded_is_ended_and_says_why(calls: list[str]) -> None:
    def run() -> None:
        calls.append("fails")
        raise RuntimeError("not while capturing")

    with pytest.raises(RuntimeError, match="not while capturing"):
        CudaRecorder("cuda")(run)
    assert calls[-1] == "end"
