"""Runs a checkpoint over one sequence with the dense backend."""

import torch
from model.dense_backend import DenseBackend

from engine.model.checkpoint import Checkpoint
from engine.model.llama import Llama


class DenseRun:
    """One sequence that grows."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model = Llama(checkpoint.config, checkpoint.weights)
        self.backend = DenseBackend(checkpoint.config.num_layers)
        self.num_tokens = 0

    def logits(self, token_ids: list[int], rows: list[int]) -> torch.Tensor:
        """Append the tokens; logits of the wanted rows among them."""
        positions = torch.arange(self.num_tokens, self.num_tokens + len(token_ids))
        self.num_tokens += len(token_ids)
        wanted = torch.tensor(rows, dtype=torch.int64)
        return self.model.forward(torch.tensor(token_ids), positions, wanted, self.backend)

    def greedy(self, prompt_ids: list[int], num_tokens: int) -> list[int]:
        tokens, rows = [], prompt_ids
        for _ in range(num_tokens):
            rows = [int(self.logits(rows, [len(rows) - 1])[0].argmax())]
            tokens += rows
        return tokens
