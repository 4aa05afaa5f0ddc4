"""HostCosts: whether a block in host memory is read there, or copied to the device for a step.

Reading it there costs the processor's work, which grows with the queries that read it; a copy costs
the way over the bus, however many read it. So a prefill's many queries may pay for a copy, and a
decode's one hardly ever does.
"""

from dataclasses import dataclass

LEARNING = 0.1
"""share of the newest step in what is believed"""


@dataclass(slots=True)
class HostCosts:
    """Seconds; ``rows`` are query rows."""

    key_s: float = 40e-9
    """one row, one key, one layer on the processor"""
    byte_s: float = 50e-12
    """one byte on its way to the device: 20 GB/s until it is measured"""

    def prefers_copy(self, rows: int, tokens: int, layer_bytes: int) -> bool:
        """For a block of so many tokens, and bytes of each layer."""
        return layer_bytes * self.byte_s < rows * tokens * self.key_s

    def learn_work(self, seconds: float, row_keys: int) -> None:
        """A layer's work over so many (row, key) pairs took so long."""
        if row_keys:
            self.key_s += LEARNING * (seconds / row_keys - self.key_s)
