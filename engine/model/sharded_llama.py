"""ShardedLlama: one tp rank's part of the Llama forward pass (tensor parallelism).

Each rank has some heads, some rows of the MLP and some tokens of the vocabulary. What a rank's
attention and MLP add to the hidden state is summed over the ranks, so all have the same one; rank 0
gets the logits. Letters as in ``llama.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.comm.collective import Collective
from engine.model.config import LlamaConfig
from engine.model.llama import Llama, _Layer
from engine.model.shard import Shard, deal


class ShardedLlama(Llama):
    """All ranks call ``forward`` with the same rows, each with its own backend."""

    def __init__(
        self,
        whole: LlamaConfig,
        weights: Mapping[str, Tensor],
        collective: Collective,
    ) -> None:
        """``weights`` are this rank's parts (``cut.py``), in plain rows."""
        shard = Shard.of(whole, collective.rank, collective.size)
        super().__init__(shard.config(whole), weights)
        self._shard = shard
        self._collective = collective
        self._widths = [len(part) for part in deal(whole.vocab_size, collective.size)]

    def embedded(self, token_ids_T: Tensor) -> Tensor:
        own_T = token_ids_T - self._shard.vocab.start
        missing_T = (own_T < 0) | (own_T >= len(self.embed))
        rows_TE = F.embedding(own_T.masked_fill(missing_T, 0), self.embed)
        return self._collective.sum(rows_TE.masked_fill(missing_T[:, None], 0.0))

    def _qkv(self, normed_TE: Tensor, layer: _Layer) -> Tensor:
        """Where ranks share a KV head, both write its keys: a product of the same shape on each of
        them gives the same bits."""
        if not self._shard.shares_kv:
            return super()._qkv(normed_TE, layer)
        num_rows = len(self._shard.heads) * self.config.head_dim
        sizes = [num_rows, len(layer.qkv) - num_rows]
        bias = layer.qkv_bias
        biases = (None, None) if bias is None else torch.split(bias, sizes)
        parts = zip(torch.split(layer.qkv, sizes), biases, strict=True)
        return torch.cat([self._product(normed_TE, *part) for part in parts], -1)

    def _out(self, layer: _Layer, out_TF: Tensor) -> Tensor:
        return self._collective.sum(super()._out(layer, out_TF))

    def _mlp(self, layer: _Layer, hidden_TE: Tensor) -> Tensor:
        return self._collective.sum(super()._mlp(layer, hidden_TE))

    def _logits(self, hidden_NE: Tensor) -> Tensor:
        return self._collective.gather(super()._logits(hidden_NE), self._widths)
