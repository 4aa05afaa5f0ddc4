"""ModelRunner: runs one plan through the model. Knows nothing of sampling or scheduling."""

from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor

from engine import devices
from engine.attention.base import AttentionBackend
from engine.comm.collective import Collective
from engine.core import Plan
from engine.errors import WontFit


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


class Runner(Protocol):
    """What a step loop needs to run a plan."""

    def run(self, plan: Plan) -> tuple[Tensor, frozenset[int]]:
        """See ``ModelRunner.run``."""


class ModelRunner:
    """One model over one attention backend; with ``collective``, one tp rank's part of both.

    All ranks run the same plans. What one of them finds poisoned, or too large, is so for all.
    """

    def __init__(
        self,
        model: Model,
        backend: AttentionBackend,
        collective: Collective | None = None,
        *,
        device: str = "cpu",
    ) -> None:
        """``device``: where the model's weights lie."""
        self._model = model
        self._backend = backend
        self._collective = collective
        self._device = device

    @torch.inference_mode()
    def run(self, plan: Plan) -> tuple[Tensor, frozenset[int]]:
        """Logits of the sampled spans' last rows, then of scored ones; the poisoned sequences.

        Raises WontFit for a sequence whose partials are more than a message may hold, and
        PeerLost where another rank is gone. Logits are rank 0's, on the host.
        """
        positions = [
            position
            for span in plan.spans
            for position in range(span.first_position, span.first_position + span.num_rows)
        ]
        wanted = [plan.spans[i].row_start + plan.spans[i].num_rows - 1 for i in plan.sampled]
        for one in plan.scored:
            wanted += range(one.row_start, one.row_start + len(one.token_ids))
        numbers = torch.tensor([*plan.token_ids, *positions, *wanted])
        if self._device != "cpu":
            numbers = devices.sent(numbers, torch.device(self._device))
        counts = [len(plan.token_ids), len(positions), len(wanted)]
        self._begin(plan)
        token_ids_T, positions_T, logit_rows = torch.split(numbers, counts)
        logits_NV = self._model.forward(token_ids_T, positions_T, logit_rows, self._backend)
        if self._device != "cpu":
            # All of the step is done when this is: then its blocks may be others'.
            leads = self._collective is None or self._collective.rank == 0
            logits_NV = devices.fetched(logits_NV if leads else logits_NV[:0])
        return logits_NV, self._of_all_ranks(plan, self._backend.end())

    def _begin(self, plan: Plan) -> None:
        own = None
        try:
            self._backend.begin(plan)
        except WontFit as error:
            own = error
        too_large = self._of_all_ranks(plan, {own.sequence} if own else ())
        if too_large:  # no rank goes on alone
            raise own or WontFit(min(too_large), "another tp rank has no room for its partials")

    def _of_all_ranks(self, plan: Plan, sequences: Collection[int]) -> frozenset[int]:
        """Sequences that any rank names; there are none where all keys are at home."""
        if self._collective is None or not _lends(plan):
            return frozenset(sequences)
        named_S = torch.tensor([span.sequence in sequences for span in plan.spans]).int()
        found = self._collective.sum(named_S).nonzero().flatten().tolist()
        return frozenset(plan.spans[index].sequence for index in found)


def _lends(plan: Plan) -> bool:
    """Whether some of its keys lie with others; the same for all ranks."""
    return any(ref.loan for span in plan.spans for ref in span.table)
