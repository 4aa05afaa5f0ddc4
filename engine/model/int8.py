"""Weights as 8-bit integers, in the order in which the C++ decoder reads them.

Symmetric and in groups: 64 values along the depth share a float32 scale, the largest magnitude
divided by 127, and each becomes the nearest multiple of it. 16 outputs make a panel. Packed is
``[panels, groups, bytes]``: a group's bytes are the outputs' scales, then for each four values
along the depth those of all outputs, with 128 added (see ``engine/native/dots_int8.h``). Zeros
fill up the last panel and the last group. Letters: O outputs, I depth, P panels, G groups.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP, PANEL = 64, 16
GROUP_BYTES = PANEL * (4 + GROUP)


def packed_shape(outputs: int, depth: int) -> tuple[int, int, int]:
    """The shape of ``pack``'s result."""
    return -(-outputs // PANEL), -(-depth // GROUP), GROUP_BYTES


def pack(weight_OI: Tensor) -> Tensor:
    """Quantize a matrix."""
    panels, groups, _ = packed_shape(*weight_OI.shape)
    missing = groups * GROUP - weight_OI.shape[1], panels * PANEL - weight_OI.shape[0]
    padded = F.pad(weight_OI.float(), (0, missing[0], 0, missing[1]))
    values = padded.view(panels, PANEL, groups, GROUP)
    scales = values.abs().amax(-1, keepdim=True) / 127
    integers = (values / scales.where(scales > 0, 1)).round().clamp(-127, 127)
    quads = (integers + 128).to(torch.uint8).view(panels, PANEL, groups, GROUP // 4, 4)
    parts = (
        scales.transpose(1, 2).contiguous().view(torch.uint8).flatten(2),
        quads.permute(0, 2, 3, 1, 4).flatten(2),
    )
    return torch.cat(parts, -1)
