"""Rotary frequencies and tables, in the half-split convention and float32 order of transformers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.model.config import LlamaConfig, RopeConfig


def rotary_tables(config: LlamaConfig) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position, float32 ``[max_positions, D / 2]``."""
    frequency_D, scale = frequencies(config.rope, config.head_dim)
    angle_PD = torch.arange(config.max_positions).float()[:, None] * frequency_D
    return angle_PD.cos() * scale, angle_PD.sin() * scale


def frequencies(rope: RopeConfig, head_dim: int) -> tuple[Tensor, float]:
    """Radians per position of each pair ``[D / 2]``, and what cosine and sine are multiplied by."""
    plain_D = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    if rope.kind == "linear":
        return plain_D / rope.factor, 1.0
    if rope.kind == "factors":
        return plain_D / torch.tensor(rope.factors), 1.0
    if rope.kind == "llama3":
        return _llama3(rope, plain_D), 1.0
    if rope.kind == "yarn":
        return _yarn(rope, plain_D), _yarn_scale(rope)
    return plain_D, 1.0


def _llama3(rope: RopeConfig, plain_D: Tensor) -> Tensor:
    """Long waves slow down by ``factor``, short ones stay, those between are blended."""
    turns_D = rope.original_max_positions * plain_D / (2 * math.pi)
    low, high = rope.low_freq_factor, rope.high_freq_factor
    keep_D = ((turns_D - low) / (high - low)).clamp(0, 1)
    return (1 - keep_D) * plain_D / rope.factor + keep_D * plain_D


def _yarn(rope: RopeConfig, plain_D: Tensor) -> Tensor:
    """Pairs that turn less than ``beta_slow`` times are interpolated, above ``beta_fast`` kept."""
    pairs = len(plain_D)

    def pair_turning(turns: float) -> float:
        positions = rope.original_max_positions / (turns * 2 * math.pi)
        return pairs * math.log(positions) / math.log(rope.theta)

    low, high = pair_turning(rope.beta_fast), pair_turning(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    high += 0.001 * (low == high)
    keep_D = 1 - ((torch.arange(pairs).float() - low) / (high - low)).clamp(0, 1)
    return plain_D / rope.factor * (1 - keep_D) + plain_D * keep_D


def _yarn_scale(rope: RopeConfig) -> float:
    def scale(mscale: float) -> float:
        return 0.1 * mscale * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)
