"""GraphedLlama: a Llama whose decode steps are recorded as CUDA graphs and replayed.

To launch a kernel costs the host some microseconds, and a layer has dozens; a graph is launched at
once. Its kernels have fixed pointers and grids, so a step is filled up to one of few sizes
(``attention/fixed.py``). Where holders are asked the host has something to do in each layer: then a
step is several graphs, one for each stretch in between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from engine.attention.base import AttentionBackend, Rotary
from engine.attention.fixed import Fixed, FixedStep
from engine.model.llama import Llama

log = logging.getLogger(__name__)

Run = Callable[[], None]
Recorder = Callable[[Run], Run]
"""makes what does the same again, on the same tensors; where it gives ``run`` itself, nothing is
recorded and all is as it would be"""


class GraphedLlama:
    """What cannot be replayed, prefills and other backends' steps, runs as the model runs it."""

    def __init__(self, model: Llama, recorder: Recorder) -> None:
        self._model = model
        self._recorder: Recorder | None = recorder
        self._decodes: WeakKeyDictionary[Fixed, dict[bool, Decode]] = WeakKeyDictionary()
        """by whether holders are asked"""

    @torch.inference_mode()
    def forward(
        self,
        token_ids_T: Tensor,
        positions_T: Tensor,
        logit_rows: Tensor,
        backend: AttentionBackend,
    ) -> Tensor:
        """See ``Llama.forward``."""
        step = backend.fixed_step() if self._recorder else None
        if step is None:
            return self._model.forward(token_ids_T, positions_T, logit_rows, backend)
        decodes = self._decodes.setdefault(step.fixed, {})
        if (decode := decodes.get(step.asks)) is not None:
            return decode.run(step, token_ids_T, positions_T)[logit_rows]
        decode = decodes[step.asks] = Decode(self._model, step)
        # The first step compiles kernels, which no recording may.
        logits_NV = decode.run(step, token_ids_T, positions_T)[logit_rows]
        self._record(decode, step)
        return logits_NV

    def _record(self, decode: Decode, step: FixedStep) -> None:
        assert self._recorder is not None
        try:
            decode.record(step, self._recorder)
        except RuntimeError as error:
            self._recorder = None
            log.warning("steps run without CUDA graphs, slower: %s", str(error).splitlines()[0])


class Decode:
    """Decode steps of one kind. Letters as in ``llama.py``; B rows, of which a step has T."""

    def __init__(self, model: Llama, step: FixedStep) -> None:
        layers = len(model.layers)
        self._model = model
        self._step: FixedStep | None = None
        """while it runs"""
        self._token_ids_B = model.embed.new_zeros(step.fixed.num_queries, dtype=torch.int64)
        self._positions_B = torch.zeros_like(self._token_ids_B)
        # Tensors that a stretch leaves to later ones: where a recorded one left them, each time.
        self._rotary: Rotary
        self._hidden: list[Tensor] = [self._token_ids_B] * layers
        self._queries: list[Tensor] = [self._token_ids_B] * layers
        self._logits_BV: Tensor
        stretches: list[Run] = [self._embed]
        for index in range(layers):
            stretches += [partial(self._attend, index), partial(self._go_on, index)]
        self._runs: list[Run] = stretches if step.asks else [partial(_in_turn, stretches)]

    def run(self, step: FixedStep, token_ids_T: Tensor, positions_T: Tensor) -> Tensor:
        """Logits [B, V], which the next step overwrites."""
        self._step = step
        self._token_ids_B[: len(token_ids_T)].copy_(token_ids_T)
        self._positions_B[: len(positions_T)].copy_(positions_T)
        self._runs[0]()
        layers = zip(self._runs[1::2], self._runs[2::2], strict=True)
        for index, (attend, go_on) in enumerate(layers):
            step.ask(self._queries[index], index)
            attend()
            step.collect()
            go_on()
        self._step = None
        return self._logits_BV

    def record(self, step: FixedStep, recorder: Recorder) -> None:
        self._step = step
        self._runs = [recorder(run) for run in self._runs]
        self._step = None

    def _embed(self) -> None:
        self._rotary = self._model.rotary(self._positions_B)
        self._enter(0, self._model.embedded(self._token_ids_B))

    def _attend(self, index: int) -> None:
        assert self._step is not None
        self._step.attend(self._queries[index], index)

    def _go_on(self, index: int) -> None:
        assert self._step is not None
        out_BHD = self._step.merge().out_THD
        hidden_BE = self._model.behind(index, self._hidden[index], out_BHD)
        if index + 1 < len(self._hidden):
            self._enter(index + 1, hidden_BE)
        else:
            self._logits_BV = self._model.logits(hidden_BE)

    def _enter(self, index: int, hidden_BE: Tensor) -> None:
        """The layer up to its queries."""
        assert self._step is not None
        self._hidden[index] = hidden_BE
        self._queries[index] = self._model.queries(index, hidden_BE, self._rotary, self._step)


def _in_turn(runs: Sequence[Run]) -> None:
    for run in runs:
        run()
