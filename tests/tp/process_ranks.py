"""The ranks of an instance as processes, over gloo; each runs one function of a test module."""

import os
import signal
import traceback
from collections.abc import Callable, Collection
from multiprocessing import get_context
from multiprocessing.connection import wait
from typing import Any

GUARD_S = 90.0
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "torch.distributed", "engine.comm.torch_collective"])


def run_ranks(
    of_rank: Callable[..., Any], size: int, *args: Any, dead: Collection[int] = ()
) -> list[Any]:
    """What ``of_rank(collective, *args)`` returned by rank; None of those that die in it."""
    meeting_file = os.memfd_create("lendkv-test-ranks")
    path = f"/proc/{os.getpid()}/fd/{meeting_file}"
    processes, pipes = [], []
    for rank in range(size):
        ours, theirs = PROCESSES.Pipe()
        process = PROCESSES.Process(target=_main, args=(theirs, of_rank, path, rank, size, args))
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    try:
        return [_result(pipe, rank in dead) for rank, pipe in enumerate(pipes)]
    finally:
        os.close(meeting_file)
        for process, pipe in zip(processes, pipes, strict=True):
            pipe.close()
            process.kill()
            process.join()
            process.close()


def _main(
    pipe: Any, of_rank: Callable[..., Any], path: str, rank: int, size: int, args: tuple[Any, ...]
) -> None:
    import torch

    from engine.comm.torch_collective import TorchCollective

    torch.set_num_threads(1)
    try:
        collective = TorchCollective(os.open(path, os.O_RDWR), rank=rank, size=size)
        said = (True, of_rank(collective, *args))
    except BaseException:
        said = (False, traceback.format_exc())
    pipe.send(said)
    signal.pause()  # who ends first would be lost to the others


def _result(pipe: Any, dies: bool) -> Any:
    assert wait([pipe], GUARD_S), "a rank did not finish"
    try:
        fine, value = pipe.recv()
    except EOFError:
        assert dies, "a rank died"
        return None
    assert fine, value
    return value
