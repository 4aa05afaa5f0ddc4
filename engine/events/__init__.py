"""Event logs: what a machine heard, in order, and hashes of its state: enough to run it again.

Each kind of machine has a ``Header`` beside it; ``record`` writes a log, ``read`` gives it back.
"""

from engine.events.header import Header
from engine.events.log import HASH, EventLog, read
from engine.events.recorder import record
from engine.events.state_hash import StateHash

__all__ = ["EventLog", "HASH", "Header", "StateHash", "read", "record"]
