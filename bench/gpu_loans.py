"""rBlocks borrowed by hand from a pool that serves, for bench.gpu."""

from collections.abc import Sequence

from engine.attention.lenders import Lenders
from engine.core import BlockRef
from engine.errors import LendKVError
from engine.protocol import Ack, Granted, Message, Reserve, Write

LEASE_S, WAIT_S = 3600.0, 60.0
"""the first step of a holder compiles its kernels"""


def borrowed(lenders: Lenders, instance: int, bodies: Sequence[bytes]) -> list[BlockRef]:
    """A block of the instance for each body, which is committed there. Raises LendKVError."""
    lenders.send(instance, Reserve(1, len(bodies), LEASE_S))
    granted = _hear(lenders, instance, Granted)
    assert isinstance(granted, Granted)
    most = lenders.max_body_bytes
    refs = []
    for slot, (block, body) in enumerate(zip(granted.blocks, bodies, strict=True)):
        for at in range(0, len(body), most):
            part = body[at : at + most]
            last = at + len(part) == len(body)
            lenders.send(instance, Write(granted.loan, slot, at, last), part)
        _hear(lenders, instance, Ack)
        refs.append(BlockRef(instance, block, granted.loan, slot, granted.generations[slot]))
    return refs


def _hear(lenders: Lenders, instance: int, kind: type[Message]) -> Message:
    while lenders.pump(WAIT_S, [instance]):
        while lenders.inbox:
            _, message = lenders.inbox.popleft()
            if isinstance(message, kind):
                return message
    raise LendKVError(f"instance {instance} sends no {kind.__name__}: {lenders.lost}")
