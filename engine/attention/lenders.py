"""Lenders: a step's channels to the pools it talks to, its own among them.

Sends messages, sorts what comes back, notices who is lost. It knows the messages' kinds, not what
they mean to the scheduler.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine import gpu_memory
from engine.comm.base import Buffer, Channel, Transport
from engine.comm.dial import Dial
from engine.errors import ConfigError, PeerLost
from engine.memory.base import header_bytes
from engine.protocol import (
    FROM_POOL,
    Answer,
    Busy,
    Data,
    FencedOff,
    Hello,
    Message,
    Rejected,
    Welcome,
    encode,
)

log = logging.getLogger(__name__)

GRACE_S = 0.02
"""a pool that is not frozen answers a greeting within this; the step does not wait for longer"""
MAX_UNSAID = 256
"""messages for a pool that has not answered yet"""


@dataclass(slots=True)
class Lender:
    """A pool at the other end of a channel."""

    instance: int
    channel: Channel
    kernel: str = ""
    """fingerprint of its kernel; empty until its Welcome came"""
    generations: NDArray[np.uint64] | None = None
    """its blocks' generations, where its memory is mapped"""
    blocks_address: int = 0
    """address of its first block in this process, where its memory is mapped"""
    memory: object = None
    """what is mapped, as long as somebody has it"""
    is_on_gpu: bool = False

    def unmap(self) -> None:
        self.generations = self.memory = None


class Lenders:
    """Pools by instance number."""

    def __init__(self, transport: Transport, *, own: Hello, debtor: Hello) -> None:
        """Greets the own pool with ``own`` (its epoch), others with ``debtor`` (the step's)."""
        self._transport = transport
        self._own = own
        self._debtor = debtor
        self._lenders: dict[int, Lender] = {}
        self._dials: dict[int, Dial] = {}
        self._unsaid: dict[int, list[tuple[Message, tuple[Buffer, ...]]]] = {}
        """what is to be said once a dial has a channel"""
        self.inbox: deque[tuple[int, Message]] = deque()
        """what came and is not a partial or block data: (instance, message)"""
        self.lost: dict[int, str] = {}
        """instances lost since somebody last cleared it, with the reason"""
        self.maps = "cpu"
        """where memory must lie to be read in place (``LocalBackend.maps``)"""
        self.required_kernel = ""
        """when set, a lender whose kernel differs is refused by name"""
        self.on_answer: Callable[[int, Answer, memoryview], None] | None = None
        self.on_declined: Callable[[int, FencedOff | Busy], None] | None = None
        self.on_data: Callable[[int, Data, memoryview], None] | None = None

    def connect(
        self, instance: int, address: str, timeout_s: float, patience_s: float = GRACE_S
    ) -> None:
        """Open a channel and greet; known instances are left as they are.

        Raises PeerLost when it is known within ``patience_s`` that there is none; later it is
        noted in ``lost``. What is sent meanwhile waits for the channel.
        """
        if instance in self._lenders or instance in self._dials:
            return
        self._dials[instance] = dial = Dial(self._transport, address, timeout_s)
        self._unsaid[instance] = []
        self.lost.pop(instance, None)
        if dial.has_ended(patience_s):
            self._open(instance)

    @property
    def max_body_bytes(self) -> int:
        """The longest message body that every connected pool takes."""
        return min(lender.channel.max_body_bytes for lender in self._lenders.values())

    @property
    def are_mapped(self) -> bool:
        """Whether the memory of all pools that it talks to can be read in place."""
        return all(lender.generations is not None for lender in self._lenders.values())

    def get(self, instance: int) -> Lender | None:
        return self._lenders.get(instance)

    def drop(self, instance: int, reason: str) -> None:
        """Close the channel; whoever asks ``lost`` is told why."""
        dial = self._dials.pop(instance, None)
        if dial is not None:
            del self._unsaid[instance]
            dial.abandon()
            self.lost[instance] = reason
        lender = self._lenders.pop(instance, None)
        if lender is not None:
            lender.unmap()
            lender.channel.close()
            self.lost[instance] = reason

    def send(self, instance: int, message: Message, *body: Buffer) -> bool:
        """Queue a message; False when the instance is lost (and noted in ``lost``)."""
        lender = self._lenders.get(instance)
        if lender is None:
            return self._say_later(instance, message, body)
        try:
            lender.channel.send(encode(message), *body)
        except PeerLost as error:
            self.drop(instance, str(error))
            return False
        return True

    def pump(self, timeout_s: float, instances: Iterable[int] | None = None) -> bool:
        """Wait for messages (of these instances) and sort them; False when none came in time."""
        self._open_dialled()
        chosen = self._lenders.keys() if instances is None else instances
        lenders = [self._lenders[i] for i in list(chosen) if i in self._lenders]
        if not lenders:
            return False
        ready = self._transport.wait([lender.channel for lender in lenders], timeout_s)
        for lender in lenders:
            if lender.channel in ready:
                self._drain(lender)
        return bool(ready)

    def wait(self, timeout_s: float, also: Iterable[int]) -> None:
        """Sleep until any lender or one of the file descriptors has something; sorts messages."""
        self._open_dialled()
        lenders = list(self._lenders.values())
        channels = [lender.channel for lender in lenders]
        ready = self._transport.wait(channels, timeout_s, list(also))
        for lender in lenders:
            if lender.channel in ready:
                self._drain(lender)

    def unsent_bytes(self, instance: int) -> int:
        lender = self._lenders.get(instance)
        return lender.channel.unsent_bytes if lender else 0

    def close(self) -> None:
        for instance in [*self._lenders, *self._dials]:
            self.drop(instance, "this step is leaving")
        self._transport.close()

    def _open_dialled(self) -> None:
        for instance in [one for one, dial in self._dials.items() if dial.has_ended()]:
            try:
                self._open(instance)
            except PeerLost as error:
                self.lost[instance] = str(error)

    def _open(self, instance: int) -> None:
        """The dial has ended: greet, and say what was to be said. Raises PeerLost."""
        unsaid = self._unsaid.pop(instance)
        channel = self._dials.pop(instance).result()
        self._lenders[instance] = Lender(instance, channel)
        self.send(instance, self._own if instance == self._own.instance else self._debtor)
        for message, body in unsaid:
            self.send(instance, message, *body)

    def _say_later(self, instance: int, message: Message, body: tuple[Buffer, ...]) -> bool:
        unsaid = self._unsaid.get(instance)
        if unsaid is None:
            return False
        if len(unsaid) >= MAX_UNSAID:
            self.drop(instance, f"it has not answered, and {MAX_UNSAID} messages wait for it")
            return False
        unsaid.append((message, body))
        return True

    def _drain(self, lender: Lender) -> None:
        try:
            while (got := lender.channel.receive()) is not None:
                head, body = got
                self._sort(lender, FROM_POOL(head), body)
        except PeerLost as error:
            self.drop(lender.instance, str(error))

    def _sort(self, lender: Lender, message: Message, body: memoryview) -> None:
        match message:
            case Answer():
                if self.on_answer:
                    self.on_answer(lender.instance, message, body)
            case Data():
                if self.on_data:
                    self.on_data(lender.instance, message, body)
            case FencedOff() | Busy():
                if self.on_declined:
                    self.on_declined(lender.instance, message)
                self.inbox.append((lender.instance, message))
            case Welcome():
                self._welcome(lender, message)
            case Rejected():
                raise PeerLost(f"instance {lender.instance} refused us: {message.reason}")
            case _:
                self.inbox.append((lender.instance, message))

    def _welcome(self, lender: Lender, message: Welcome) -> None:
        if message.instance != lender.instance:
            raise PeerLost(f"instance {message.instance} answers at {lender.instance}'s address")
        if self.required_kernel and message.kernel != self.required_kernel:
            raise PeerLost(
                f"instance {lender.instance} computes with {message.kernel}, this one with "
                f"{self.required_kernel}: their bits differ; set attention.options.bits=any"
            )
        lender.kernel = message.kernel
        if lender.channel.region is not None and self.maps:
            self._map(lender, message, lender.channel.region)

    def _map(self, lender: Lender, message: Welcome, region: memoryview) -> None:
        """Its memory, where the own kernels reach it; else it is asked."""
        whole = np.frombuffer(region, np.uint8)
        if message.gpu is None and self.maps == "cpu":
            lender.memory = whole
            lender.blocks_address = whole.ctypes.data + header_bytes(message.num_blocks)
        elif message.gpu is not None and self.maps != "cpu":
            if lender.instance != self._own.instance:  # what this process shows it has not to open
                try:
                    memory = gpu_memory.opened(message.gpu, self.maps)
                except ConfigError as error:
                    log.warning("instance %d is asked, not read: %s", lender.instance, error)
                    return
                lender.memory, lender.blocks_address = memory, memory.data_ptr()
                lender.is_on_gpu = True
        else:
            return
        lender.generations = whole[: 8 * message.num_blocks].view(np.uint64)
