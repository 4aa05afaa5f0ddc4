"""What tensor parallelism cannot be together with is refused before anything starts."""

import pytest

from engine.config import load
from engine.errors import ConfigError
from engine.llm import LLM


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.library=transformers", "model.library=transformers is for tp=1 only"),
        ("model.quantization=int8", "model.quantization=int8 is for tp=1 only"),
        ("model.bits=schedule", "model.bits=schedule is for tp=1 only"),
        ("attention.options.way=copy", "attention.options.way=copy is for tp=1 only"),
        ("cluster.donor=true", "cluster.donor=True is for tp=1 only"),
    ],
)
def test_what_ranks_cannot_do_is_refused_by_name(override: str, said: str) -> None:
    overrides = ["cluster.join=host:1", override]
    load(None, overrides)
    with pytest.raises(ConfigError, match="is 2") as refused:
        load(None, [*overrides, "tp=2"])
    (problem,) = refused.value.problems
    assert problem.startswith(said)


def test_all_of_it_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        load(None, ["tp=3", "model.bits=schedule", "attention.options.way=copy", "threads=0"])
    assert len(refused.value.problems) == 3


def test_less_than_one_rank_is_none() -> None:
    with pytest.raises(ConfigError, match="tp is 0; 1 to"):
        load(None, ["tp=0"])


def test_in_one_process_there_is_one_rank() -> None:
    with pytest.raises(ConfigError, match="tp=2 is for instances in processes; set tp=1"):
        LLM(load(None, ["tp=2"]))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("transport.name=tcp", "transport.name=tcp maps no memory: use transport.name=shm"),
        ("tp=2", "tp=2 ranks have a part of a pool each: use tp=1"),
    ],
)
def test_a_pool_that_cannot_be_mapped_is_refused_by_name(override: str, said: str) -> None:
    on_device = ["pool.name=device", override]
    load(None, on_device)
    with pytest.raises(ConfigError) as refused:
        load(None, [*on_device, "pool.options.mapped=true"])
    assert refused.value.problems == (f"pool.options.mapped=true: {said}",)
