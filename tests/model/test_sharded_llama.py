"""The ranks of an instance together are the model: for every family, and for uneven parts."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model.dense_backend import DenseBackend
from tiny_models import FAMILIES, LOGITS, make_tiny, reference_logits
from tp.thread_ranks import ThreadRanks

from engine.errors import ConfigError
from engine.model.checkpoint import load
from engine.model.config import LlamaConfig, RopeConfig
from engine.model.shard import Shard, deal

IDS = torch.randint(0, 127, (60,), generator=torch.Generator().manual_seed(1)).tolist()


def sharded_logits(path: Path, size: int, ids: list[int]) -> list[torch.Tensor]:
    """Of all rows, by rank; in two chunks, so that keys of an earlier one are read."""
    checkpoint: Any = load(str(path), "float32", ranks=size)

    def of_rank(collective: Any) -> torch.Tensor:
        model = checkpoint.part(collective)
        backend = DenseBackend(checkpoint.config.num_layers)
        found = []
        for rows in (range(40), range(40, len(ids))):
            at = torch.tensor(rows)
            tokens = torch.tensor([ids[row] for row in rows])
            found.append(model.forward(tokens, at, torch.arange(len(rows)), backend))
        return torch.cat(found)

    return ThreadRanks(size).run(of_rank)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_ranks_together_give_the_logits_of_transformers(
    tmp_path: Path, family: str, size: int
) -> None:
    """4 query and 2 KV heads, 97 MLP rows, 127 tokens: nothing can be dealt out evenly."""
    tied = family == "qwen3"
    path = make_tiny(
        tmp_path, family, seed=3, vocab=127, intermediate_size=97, tie_word_embeddings=tied
    )
    logits, *others = sharded_logits(path, size, IDS)
    torch.testing.assert_close(logits, reference_logits(path, IDS), **LOGITS)
    assert [one.shape[1] for one in others] == [len(part) for part in deal(127, size)[1:]]


def test_whole_kv_heads_are_dealt_out_unevenly(tmp_path: Path) -> None:
    path = make_tiny(tmp_path, num_attention_heads=8, num_key_value_heads=4)
    logits, *_ = sharded_logits(path, 3, IDS)
    torch.testing.assert_close(logits, reference_logits(path, IDS), **LOGITS)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_ranks_that_share_a_kv_head_write_the_same_bits(tmp_path: Path, family: str) -> None:
    path = make_tiny(tmp_path, family, num_attention_heads=6, num_key_value_heads=2, hidden_size=96)
    checkpoint: Any = load(str(path), "bfloat16", ranks=5)
    backends = [DenseBackend(checkpoint.config.num_layers) for _ in range(5)]

    def of_rank(collective: Any) -> None:
        model = checkpoint.part(collective)
        rows = torch.arange(len(IDS))
        model.forward(torch.tensor(IDS), rows, rows, backends[collective.rank])

    ThreadRanks(5).run(of_rank)
    shards = [Shard.of(checkpoint.config, rank, 5) for rank in range(5)]
    assert [one.kv_heads.start for one in shards] == [0, 0, 0, 1, 1]
    for layer in range(checkpoint.config.num_layers):
        for keys in ("k_SKD", "v_SKD"):
            first, _, same, other, again = (getattr(b, keys)[layer][0] for b in backends)
            assert torch.equal(first, same)
            assert torch.equal(other, again)
            assert not torch.equal(first, other)


def test_no_layer_waits_for_a_device(tmp_path: Path) -> None:
    """On torch's device without memory nothing can be read, so the host never needs what lies
    there: neither in a layer nor for the logits."""
    path = make_tiny(tmp_path, "qwen2", intermediate_size=97)
    checkpoint: Any = dataclasses.replace(load(str(path), "bfloat16", ranks=3), device="meta")
    rows = torch.arange(20, device="meta")

    def of_rank(collective: Any) -> torch.Tensor:
        model = checkpoint.part(collective)
        return model.forward(rows, rows, rows[:2], DenseBackend(checkpoint.config.num_layers))

    ranks = ThreadRanks(3)
    logits, *_ = ranks.run(of_rank)
    assert logits.device.type == "meta"
    assert logits.shape == (2, checkpoint.config.vocab_size)
    assert ranks.num_sums == 1 + 2 * checkpoint.config.num_layers


def config(heads: int, kv_heads: int, mlp: int = 500, vocab: int = 500) -> LlamaConfig:
    return LlamaConfig(
        family="llama",
        num_layers=1,
        hidden_size=8,
        mlp_size=mlp,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=2,
        vocab_size=vocab,
        max_positions=8,
        norm_eps=1e-6,
        tied=True,
        rope=RopeConfig(),
    )


@given(st.integers(1, 12), st.integers(1, 8), st.data())
def test_shards_are_a_partition_and_stay_with_their_keys(
    kv_heads: int, group: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, kv_heads * group), label="ranks")
    whole = config(kv_heads * group, kv_heads)
    shards = [Shard.of(whole, rank, size) for rank in range(size)]
    for kind, count in (("heads", whole.num_heads), ("mlp", 500), ("vocab", 500)):
        assert [i for one in shards for i in getattr(one, kind)] == list(range(count))
        lengths = [len(getattr(one, kind)) for one in shards]
        assert min(lengths) >= 1
        assert max(lengths) - min(lengths) <= (group if kind == "heads" else 1)
    have = Counter(head for one in shards for head in one.kv_heads)
    assert have.keys() == set(range(kv_heads))
    for one in shards:
        assert sorted({head // group for head in one.heads}) == list(one.kv_heads)
        assert one.shares_kv == any(have[head] > 1 for head in one.kv_heads)
        part = one.config(whole)  # a query head's KV head is found by division within the part
        for index, head in enumerate(one.heads):
            at = index // (part.num_heads // part.num_kv_heads)
            assert one.kv_heads[at] == head // group


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"heads": 4, "kv_heads": 2}, "tp=5: the model has 4 query heads"),
        ({"heads": 6, "kv_heads": 2, "mlp": 3}, "3 MLP rows"),
        ({"heads": 6, "kv_heads": 2, "vocab": 4}, "4 tokens in its vocabulary.* 4 or less"),
    ],
)
def test_too_many_ranks_are_refused_with_numbers(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Shard.of(config(**wrong), 0, 5)
