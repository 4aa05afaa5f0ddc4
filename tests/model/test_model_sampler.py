"""Sampling depends on logits, parameters and position only, and follows the distribution."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.core import SamplingParams
from engine.model import sampler
from engine.model.sampler import Row

GREEDY = SamplingParams()
LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.05, 0.25, 0.2]]))


def sample(logits, params, positions):
    """Of sequences whose own tokens do not matter."""
    pairs = zip(params, positions, strict=True)
    return sampler.sample(logits, [Row(one, range(position), 0) for one, position in pairs])


def _draws(params: SamplingParams, count: int = 2000) -> torch.Tensor:
    tokens = sample(LOGITS.expand(count, -1), [params] * count, range(count))
    return torch.bincount(torch.tensor(tokens), minlength=5) / count


@given(st.integers(1, 6), st.integers(1, 70000), st.integers(0, 2**31))
def test_greedy_takes_the_lowest_id_of_ties(rows: int, vocab: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, 3, (rows, vocab), generator=generator).float()
    wanted = [row.index(max(row)) for row in logits.tolist()]
    assert sample(logits, [GREEDY] * rows, [0] * rows) == wanted


def test_frequencies_follow_the_distribution() -> None:
    found = _draws(SamplingParams(temperature=1.0, seed=7))
    assert (found - LOGITS[0].exp()).abs().max() < 0.05


def test_temperature_sharpens() -> None:
    assert _draws(SamplingParams(temperature=0.3))[1] > 0.7
    assert _draws(SamplingParams(temperature=1e-9))[1] == 1


def test_top_k_keeps_the_k_largest() -> None:
    assert (_draws(SamplingParams(temperature=1.0, top_k=3)) > 0).tolist() == [0, 1, 0, 1, 1]


def test_top_k_prefers_the_lowest_ids_of_ties() -> None:
    params = SamplingParams(temperature=1.0, top_k=2)
    tokens = {sample(torch.zeros(1, 9), [params], [n])[0] for n in range(200)}
    assert tokens == {0, 1}


def test_top_p_keeps_the_fewest_that_reach_p() -> None:
    assert (_draws(SamplingParams(temperature=1.0, top_p=0.7)) > 0).tolist() == [0, 1, 0, 1, 1]
    assert (_draws(SamplingParams(temperature=1.0, top_p=0.6)) > 0).tolist() == [0, 1, 0, 1, 0]
    assert _draws(SamplingParams(temperature=1.0, top_p=1e-6))[1] == 1
    assert (_draws(SamplingParams(temperature=1.0, top_p=0.9999)) > 0).all()


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**40), st.floats(0.1, 3), st.floats(0.01, 1))
def test_a_choice_does_not_depend_on_the_batch(
    seed: int, position: int, temperature: float, top_p: float
) -> None:
    params = SamplingParams(seed=seed, temperature=temperature, top_p=top_p, top_k=40)
    generator = torch.Generator().manual_seed(position % 1000)
    logits = torch.randn(3, 100, generator=generator)
    alone = sample(logits[1:2], [params], [position])
    others = SamplingParams(temperature=1.0, seed=5)
    assert sample(logits, [GREEDY, params, others], [1, position, 2])[1:2] == alone


def test_seed_and_position_change_the_choice() -> None:
    flat = torch.zeros(1, 1000)
    one, two = (SamplingParams(temperature=1.0, seed=seed) for seed in (1, 2))
    tokens = [sample(flat, [params], [n])[0] for params in (one, two) for n in range(20)]
    assert len(set(tokens)) > 35
