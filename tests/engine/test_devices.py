"""Which device each step process of a host gets; the GPUs are counted by a patched torch."""

from typing import Any

import pytest
import torch

from engine import devices, doctor_devices
from engine.build_attention import model_device, seated
from engine.config import Config, load
from engine.errors import ConfigError
from engine.world import World


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it with how many there are."""

    def have(count: int, *, nccl: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: nccl)

    return have


def of_host(config: Config, num_here: int = 1) -> list[str]:
    """Where the ranks of all instances of a host compute, in order."""
    return [
        model_device(seated(config, rank, number_here=number, num_here=num_here))
        for number in range(num_here)
        for rank in range(config.tp)
    ]


ON_DEVICE = ("pool.name=device",)


@pytest.mark.parametrize(
    ("overrides", "num_here", "wanted"),
    [
        (["model.device=cuda", "tp=2"], 1, ["cuda:0", "cuda:1"]),
        (["model.device=cuda", "tp=2"], 2, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        (["model.device=cuda"], 2, ["cuda:0", "cuda:1"]),
        (["model.device=cuda:3"], 2, ["cuda:3", "cuda:3"]),
        (["model.device=cuda"], 6, [*(f"cuda:{n}" for n in range(4)), "cuda:0", "cuda:1"]),
        (["tp=2"], 2, ["cpu"] * 4),
        (["model.device=cpu", "tp=2"], 1, ["cpu"] * 2),
        ([*ON_DEVICE], 2, ["cuda:0", "cuda:1"]),
        ([*ON_DEVICE, "tp=2"], 2, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ([*ON_DEVICE, "tp=2"], 3, ["cpu"] * 6),
        (["pool.name=tiered", "tp=2"], 1, ["cuda:0", "cuda:1"]),
        ([*ON_DEVICE, "pool.options.device=cuda:2"], 1, ["cuda:2"]),
        ([*ON_DEVICE, "pool.options.device=cpu"], 1, ["cpu"]),
    ],
)
def test_each_rank_of_a_host_with_four_has_its_own(
    gpus: Any, overrides: list[str], num_here: int, wanted: list[str]
) -> None:
    gpus(4)
    assert of_host(load(None, overrides), num_here) == wanted


def test_torchrun_tells_an_instance_its_number_on_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4, "MASTER_PORT": 9}
    for name, value in {**told, "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, str(value))
    world = World.from_environment()
    assert (world.rank, world.number_here, world.num_here) == (5, 1, 4)


def test_the_pool_of_a_rank_lies_where_its_model_runs(gpus: Any) -> None:
    gpus(2)
    config = load(None, [*ON_DEVICE, "model.device=cuda", "instances=2"])
    second = seated(config, 0, number_here=1, num_here=2)
    assert second.pool.options == {"device": "cuda:1"}
    assert model_device(second) == "cuda:1"


def test_a_pool_of_ones_own_keeps_its_options(gpus: Any) -> None:
    gpus(2)
    config = load(None, ["pool.name=example_pool:MyPool"])
    assert seated(config, 0, number_here=0, num_here=1) == config


@pytest.mark.parametrize("there", [1, 3])
def test_ranks_that_would_share_a_gpu_are_refused_with_numbers(gpus: Any, there: int) -> None:
    gpus(there)
    config = load(None, ["model.device=cuda", "tp=2", "instances=2"])
    said = rf"for tp=2 ranks, and NCCL needs .* the 4 ranks .* are {there}: lower"
    with pytest.raises(ConfigError, match=said):
        of_host(config, 2)


def test_where_the_recipe_leaves_it_open_they_compute_on_the_cpu_and_one_says_so(
    gpus: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gpus(1)
    assert [devices.own("auto", seat, 2, tp=2) for seat in range(2)] == ["cpu", "cpu"]
    (said,) = caplog.messages
    assert said.startswith("tp=2 ranks compute on the CPU: NCCL needs a GPU for each of the 2")


def test_a_build_without_nccl_is_named(gpus: Any) -> None:
    gpus(4, nccl=False)
    with pytest.raises(ConfigError, match="this build of PyTorch has no NCCL: use one for CUDA"):
        devices.own("cuda", 0, 2, tp=2)
    assert devices.own("cuda", 1, 2) == "cuda:1"


def test_without_any_gpu_it_is_as_for_one_rank(gpus: Any) -> None:
    gpus(0)
    assert of_host(load(None, ["tp=2"])) == ["cpu", "cpu"]
    with pytest.raises(ConfigError, match="finds no CUDA GPU"):
        of_host(load(None, ["model.device=cuda", "tp=2"]))


@pytest.mark.parametrize("name", ["model.device", "pool.options.device"])
def test_one_gpu_by_its_number_is_not_for_several_ranks(name: str) -> None:
    said = f"{name}=cuda:1 is one GPU, and each of tp=2 ranks needs its own: use {name}=cuda"
    with pytest.raises(ConfigError, match=said):
        load(None, [*ON_DEVICE, f"{name}=cuda:1", "tp=2"])


@pytest.mark.parametrize(("there", "said"), [(2, "model.device=cuda gives"), (1, "NCCL needs")])
def test_the_doctor_says_what_two_ranks_could_have(gpus: Any, there: int, said: str) -> None:
    gpus(there)
    device, ranks = doctor_devices.device(load(None, ["tp=2"]))
    assert device.found == "the model runs on cpu, keys lie on the host"
    assert (ranks.what, ranks.state) == ("tensor parallelism", "note")
    assert ranks.found == "tp=2 ranks compute on the processor"
    assert said in ranks.advice
