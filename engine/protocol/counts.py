"""What steps and pools count of themselves: whole numbers since they began, never less than before.

Whoever reads them must expect a process that was restarted to begin at 0 again, as Prometheus does.
"""

from typing import Annotated

from msgspec import Meta, Struct

from engine.protocol.base import Count, Index, Text

Counts = Annotated[dict[Text, Count], Meta(max_length=256)]


class Histogram(Struct, frozen=True, array_like=True, gc=False):
    """A core.Distribution as it stood."""

    bounds: Annotated[list[float], Meta(max_length=64)]
    counts: Annotated[list[Count], Meta(max_length=65)]
    total: float


Histograms = Annotated[dict[Text, Histogram], Meta(max_length=64)]


class Share(Struct, frozen=True, array_like=True, gc=False):
    """So many blocks at, or of, an instance."""

    instance: Index
    num_blocks: Count


Shares = Annotated[list[Share], Meta(max_length=1 << 16)]
