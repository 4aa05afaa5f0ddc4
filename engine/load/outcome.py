"""What came of one request, as its client saw it, and the latencies that follow from it."""

from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(slots=True)
class Outcome:
    """Times are seconds on the clock of the run, 0 at its start."""

    num_prompt: int
    due: float = 0.0
    """when it was to be sent"""
    woken: float = 0.0
    """when it was: before it waited for its turn under ``--max-concurrency``"""
    sent: float = 0.0
    times: list[float] = field(default_factory=list)
    """when each chunk with content came"""
    ended: float = 0.0
    """when the connection had no more to say"""
    num_output: int = 0
    text: str = ""
    error: str = ""
    """why it failed; empty when it did not"""

    @property
    def completed(self) -> bool:
        return not self.error and bool(self.times)

    @property
    def ttft(self) -> float:
        """Seconds from sending to the first chunk with content."""
        return self.times[0] - self.sent

    @property
    def e2el(self) -> float:
        """Seconds from sending to the last chunk with content."""
        return self.times[-1] - self.sent

    @property
    def itls(self) -> list[float]:
        """Seconds between chunks with content; a chunk may hold several tokens."""
        return [later - earlier for earlier, later in pairwise(self.times)]

    @property
    def tpot(self) -> float | None:
        """Seconds for each token behind the first; None when there is none."""
        if self.num_output < 2:
            return None
        return (self.e2el - self.ttft) / (self.num_output - 1)
