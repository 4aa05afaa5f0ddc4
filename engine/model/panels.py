"""Bfloat16 matrices in the order in which the C++ decoder reads them.

A panel is 32 outputs. Packed is ``[panels, pairs, outputs, 2]``: for each two values along the
depth those of all outputs of the panel (see ``engine/native/dots.h``). Zeros fill up the last
panel and the last pair.
"""

import torch.nn.functional as F
from torch import Tensor

PANEL = 32


def packed_shape(outputs: int, depth: int) -> tuple[int, int, int, int]:
    """The shape of ``pack``'s result."""
    return -(-outputs // PANEL), -(-depth // 2), PANEL, 2


def pack(weight_OI: Tensor) -> Tensor:
    """The matrix in panels."""
    panels, pairs, _, _ = packed_shape(*weight_OI.shape)
    missing = 2 * pairs - weight_OI.shape[1], panels * PANEL - weight_OI.shape[0]
    padded = F.pad(weight_OI, (0, missing[0], 0, missing[1]))
    return padded.view(panels, PANEL, pairs, 2).transpose(1, 2).contiguous()
