"""Identity: tells models apart whose keys must not be mixed, though their blocks are alike.

Two fine-tunes of one model have the same shape, and a cluster may hold both; keys that one has
cached are of no use to the other. So a few values of every weight are hashed: even a change of a
few matrices is seen, and it takes no more than a moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

NUM_SAMPLES = 64
"""values of each weight, spread over all of it: fused matrices have parts"""


def identity(description: str, weights: Mapping[str, Tensor]) -> str:
    """A short name; equal for the same description and weights in the same form."""
    digest = hashlib.blake2b(description.encode(), digest_size=8)
    for name in sorted(weights):
        weight = weights[name].detach().reshape(-1)
        step = max(1, len(weight) // NUM_SAMPLES)
        sample = weight[::step].contiguous().view(torch.uint8)
        digest.update(f"{name} {tuple(weights[name].shape)} {weight.dtype} ".encode())
        digest.update(sample.numpy(force=True).tobytes())
    return digest.hexdigest()
