"""The engine's own contract tests, run on parts from outside."""

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

for _folder in ("attention", "comm", "memory", "scheduler"):
    sys.path.append(str(Path(__file__).parents[1] / _folder))

import test_backends as backends  # noqa: E402
import test_placements as placements  # noqa: E402
import test_pool_contract as pools  # noqa: E402
import test_transport_contract as transports  # noqa: E402
import test_transport_peers as peers  # noqa: E402
from comm_harness import Link  # noqa: E402

from engine.comm import TRANSPORTS  # noqa: E402
from engine.config import Component, options_of  # noqa: E402
from engine.errors import ConfigError  # noqa: E402
from engine.memory import POOLS  # noqa: E402

BACKEND = "example_attention:MatmulBackend"
POOL = "example_pool:FilePool"
PLACEMENT = "example_placement:KeepTail"


class TracedLink(Link):
    """Pairs of traced channels; options go to the transport inside."""

    def transport(self, **more: Any) -> Any:
        region = {key: more.pop(key) for key in ("region", "region_fd") if key in more}
        self.name, inner = "example_transport:TracedTransport", self.name
        try:
            return super().transport(options=more, around=inner, **region)
        finally:
            self.name = inner


@pytest.fixture(params=["tcp", "shm"])
def net(request, tmp_path):
    made = TracedLink(request.param, {"folder": str(tmp_path)})
    yield made
    made.close()


@pytest.fixture
def pool():
    made = pools.make(POOL)
    yield made
    made.close()


@pytest.fixture
def region_pool(pool):
    return pool


def contract(module: Any, fixture: str) -> dict[str, Any]:
    """A module's tests of a fixture, to be collected here and given this module's fixture."""
    tests = {name: value for name, value in vars(module).items() if name.startswith("test_")}
    return {
        name: value
        for name, value in tests.items()
        if next(iter(inspect.signature(value).parameters), "") == fixture
    }


globals().update(contract(transports, "net"))
globals().update(contract(peers, "net"))
globals().update(contract(pools, "pool"))
globals().update(contract(pools, "region_pool"))


def test_what_is_written_to_the_own_pool_is_seen_through_its_descriptor(pool):
    pool.block(2)[:3] = b"abc"
    at = pool.block_address(2) - pool.address
    program = f"import os; print(os.pread({pool.fd}, 3, {at}).decode())"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, pass_fds=[pool.fd], capture_output=True, text=True, check=True)
    assert done.stdout == "abc\n"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(pool.fd, b"x", at)


@pytest.mark.parametrize(
    ("kind", "name", "runtime"),
    [
        (POOLS, POOL, {"layout": pools.LAYOUT, "num_blocks": 5}),
        (TRANSPORTS, "example_transport:TracedTransport", {}),
    ],
)
def test_a_folder_that_is_not_there_is_refused_with_a_sentence(kind, name, runtime):
    cls, options = options_of(kind, "part", Component(name=name, options={"folder": "/nowhere"}))
    with pytest.raises(ConfigError, match="No such file or directory: '/nowhere"):
        cls(options, **runtime)


def test_blocks_of_the_own_pool_keep_apart():
    pools.test_bytes_of_a_block_stay_in_it(name=POOL)
    pools.test_bump_grows_one_generation_only(name=POOL)


def test_the_own_backend_is_exact():
    backends.test_each_row_is_attention_over_its_own_earlier_keys(name=BACKEND)
    backends.test_an_unfinished_step_may_be_begun_again(BACKEND)


def test_the_own_placement_places_every_leaf_or_refuses():
    placements.test_every_leaf_is_placed_or_the_need_is_refused_with_numbers(name=PLACEMENT)
