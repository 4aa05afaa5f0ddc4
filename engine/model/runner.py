"""ModelRunner: runs one plan through the model. Knows nothing of sampling or scheduling."""

from typing import Protocol

import torch
from torch import Tensor

from engine.attention.base import AttentionBackend
from engine.core import Plan


class Model(Protocol):
    """What the runner needs of a model."""

    def forward(
        self,
        token_ids_T: Tensor,
        positions_T: Tensor,
        logit_rows: Tensor,
        backend: AttentionBackend,
    ) -> Tensor:
        """Float32 logits [len(logit_rows), V]."""


class ModelRunner:
    """One model over one attention backend."""

    def __init__(self, model: Model, backend: AttentionBackend) -> None:
        self._model = model
        self._backend = backend

    @torch.inference_mode()
    def run(self, plan: Plan) -> tuple[Tensor, frozenset[int]]:
        """Logits of the sampled spans' last rows, then of scored ones; the poisoned sequences."""
        token_ids_T = torch.tensor(plan.token_ids, dtype=torch.int64)
        positions = [
            position
            for span in plan.spans
            for position in range(span.first_position, span.first_position + span.num_rows)
        ]
        wanted = [plan.spans[i].row_start + plan.spans[i].num_rows - 1 for i in plan.sampled]
        for one in plan.scored:
            wanted += range(one.row_start, one.row_start + len(one.token_ids))
        self._backend.begin(plan)
        logits_NV = self._model.forward(
            token_ids_T,
            torch.tensor(positions),
            torch.tensor(wanted, dtype=torch.int64),
            self._backend,
        )
        return logits_NV, self._backend.end()
