"""How a role finds the others: torchrun's store, a running cluster's planner, and its end."""

import logging
import secrets
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from multiprocessing.connection import Connection

from engine.build import layout_of
from engine.comm.auth import KEY_VARIABLE, read_key
from engine.comm.control import ControlClient
from engine.config import Config
from engine.core import ModelShape
from engine.errors import ConfigError
from engine.protocol import FROM_PLANNER, VERSION, Join, Joined, NotJoined
from engine.saying import say

log = logging.getLogger(__name__)

MEET_S = 120.0
GONE = "gone"
"""stands in torchrun's store for the planner's address when rank 0 has left"""
MAX_UNHEARD = 5
"""seconds in a row without a planner to connect to, after which a step leaves: rank 0 is gone"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What a role must know of where it is."""

    config: Config
    instance: int
    cluster: str
    epoch: int
    shape: ModelShape
    planner: str
    """the planner's control address; empty until torchrun's store has told it"""
    key: bytes
    """the cluster's; empty until the store has told it"""
    store: tuple[str, int] | None
    host: str = field(default_factory=socket.gethostname)
    lends: bool = True
    """what an operator said last"""
    num_here: int = 1
    """instances that this launch has on this host"""
    number_here: int = 0
    """this one's among them"""
    next_number: int = 0
    """what the planner gives first to who joins: lower ones were given before it started"""

    def seated(self, rank: int) -> "Place":
        """As that tp rank's process has it, with a device of its own. Looks for GPUs, so not in a
        supervisor. Raises ConfigError."""
        from engine.build_attention import seated

        here = {"number_here": self.number_here, "num_here": self.num_here}
        return replace(self, config=seated(self.config, rank, **here))


def farewell(place: Place) -> int:
    """Rank 0 leaves before all have met: tell whoever still waits for the planner's address."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    assert place.store is not None
    host, port = place.store
    with suppress(RuntimeError):  # torchrun is gone as well, and with it the others
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
        store.set(f"lendkv/{place.cluster}/planner", GONE)
    return 0


class PlannerLife:
    """Whether the planner is gone for good; one that restarts is away for a moment."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._num_unheard = 0

    def is_over(self) -> bool:
        """Asked once a second."""
        self._num_unheard = 0 if listens(self._address) else self._num_unheard + 1
        if self._num_unheard < MAX_UNHEARD:
            return False
        log.warning("the planner at %s is gone, and this instance leaves", self._address)
        return True


def listens(address: str) -> bool:
    """Whether somebody takes connections there."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=0.5):
            return True
    except OSError:
        return False


def meet(place: Place) -> tuple[str, bytes]:
    """The planner's address and the cluster's key.

    Rank 0 leaves them in torchrun's store and all others fetch them; a key that was given to all
    does not travel.
    """
    if place.store is None or (place.planner and place.instance):
        return place.planner, place.key
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = place.store
    given = read_key(place.config.cluster.key_file)
    try:
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=MEET_S))
        name = f"lendkv/{place.cluster}"
        if place.planner:
            store.set(f"{name}/key", "" if given else place.key.hex())
            store.set(f"{name}/planner", place.planner)
            return place.planner, place.key
        address = str(store.get(f"{name}/planner").decode())
        made = b"" if address == GONE else bytes.fromhex(store.get(f"{name}/key").decode())
    except RuntimeError as error:
        raise ConfigError(
            f"instance {place.instance} could not meet the others at torchrun's store "
            f"{host}:{port} within {MEET_S:g} s: {str(error).splitlines()[0]}"
        ) from error
    if address != GONE and bool(made) == bool(given):
        has, lacks = ("rank 0", "this one") if made == b"" else ("this one", "rank 0")
        raise ConfigError(
            f"{has} was given a cluster key and {lacks} was not: give all the same "
            f"cluster.key_file, or the same {KEY_VARIABLE}"
        )
    return address, given or made


def join(pipe: Connection, place: Place) -> int:
    """Asks the planner of a running cluster for a number, and tells it to the supervisor."""
    config = place.config
    address = f"tcp://{config.cluster.join}"
    client = ControlClient(address, FROM_PLANNER, place.key)
    wanted = Join(VERSION, layout_of(config, place.shape).fingerprint, secrets.randbits(47))
    deadline = time.monotonic() + config.cluster.start_s
    while time.monotonic() < deadline:
        client.send(wanted)
        for message in client.receive(1.0):
            if isinstance(message, Joined) and message.ticket == wanted.ticket:
                where = f"the cluster at {config.cluster.join}"
                say(f"lendkv: instance {message.instance} joins {where}", sys.stdout)
                pipe.send({"instance": message.instance, "cluster": message.cluster})
                client.close()
                return 0
            if isinstance(message, NotJoined) and message.ticket == wanted.ticket:
                raise ConfigError(f"the cluster at {config.cluster.join} refused: {message.reason}")
    raise ConfigError(
        f"no planner answers at cluster.join={config.cluster.join} within "
        f"{config.cluster.start_s:g} s; lendkv serve prints the address when it starts"
    )
