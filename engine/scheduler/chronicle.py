"""Chronicle: what befalls sequences, kept for who asks why, and counted for who asks how often.

No I/O; its time is the latest that its step was told.

What a moment may be, and what its amount counts:

=============  =================================================================================
queued         sequences before it
waits          no memory was found: blocks it lacks
borrowed       blocks of an instance
host           blocks of host memory
started        blocks of its own; it runs
found          tokens whose blocks were cached, and need no computing
computed       tokens of the prompt
recomputed     tokens whose keys were lost
first_token
moved          blocks that went to an instance
recalled       blocks that an instance wants back
returned       blocks that came home from an instance
busy           an instance computes for its own first: milliseconds of pause
lost           tokens to be computed again, for a cause: ``lost:CAUSE``
handed_over
ended
=============  =================================================================================
"""

from collections import Counter

from engine.protocol import Message
from engine.scheduler.sequence import Sequence


class Chronicle:
    """``note`` what happens; ``counts`` are the times, and the amounts, of each kind."""

    def __init__(self) -> None:
        self.now = 0.0
        self.counts: Counter[str] = Counter()
        """``what``, and ``what.sum`` for amounts, since the step began"""

    def hear(self, message: Message, now: float) -> None:
        """A pool said this."""
        self.now = now
        self.count(f"heard:{type(message).__name__}")

    def note(self, sequence: Sequence, what: str, instance: int = -1, amount: int = 0) -> None:
        """It befell this sequence."""
        arrived = self.now if sequence.arrived is None else sequence.arrived
        sequence.timeline.note(what, max(0.0, self.now - arrived), instance, amount)
        self.count(what, amount)

    def count(self, what: str, amount: int = 0) -> None:
        """It happened, to no sequence in particular."""
        self.counts[what] += 1
        if amount:
            self.counts[what + ".sum"] += amount
