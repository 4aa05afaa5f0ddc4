"""The errors a user of the engine can meet; each carries numbers and what to do.

LendKVError
|-- ConfigError        a recipe, an override or the machine cannot give what was asked
|-- CheckpointError    model files are missing, damaged or of an unsupported kind
|-- GrammarError       a grammar that is invalid, too complex, or cannot be followed any further
|-- CapacityError      memory or positions are short; nothing was taken
|   `-- WontFit        one query's partials are more than a message may hold
|-- PeerLost           the other end of a channel is gone, frozen or talks nonsense
|-- Fenced             a pool refused to answer: its books no longer match the caller's
"""


class LendKVError(Exception):
    """Base of all errors raised on purpose; its text is one sentence for the user."""


class ConfigError(LendKVError):
    """A configuration that cannot run. ``problems`` lists every fault found, not only the first."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class CheckpointError(LendKVError):
    """Model files are missing, damaged, or of a kind the engine does not support."""


class GrammarError(LendKVError):
    """A grammar that does not compile, or of which no token of the model is the continuation."""


class CapacityError(LendKVError):
    """Not enough blocks or positions. Whoever raises it has taken nothing."""


class WontFit(CapacityError):
    """One query's partials of ``sequence`` are more than a message may hold."""

    def __init__(self, sequence: int, reason: str) -> None:
        self.sequence = sequence
        super().__init__(reason)


class PeerLost(LendKVError):
    """A channel's other end is closed, silent past its deadline, or sent an invalid frame."""


class Fenced(LendKVError):
    """A pool's own books (epoch, loan, lease, table) no longer match what it was asked."""
