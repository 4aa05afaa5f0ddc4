"""The roles as processes: what each forked child of a supervisor runs. Only step imports torch."""

import logging
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection

from engine.build import build_loop, build_planner, build_pool_server, build_transport
from engine.comm.control import ControlClient, ControlServer
from engine.config import Config
from engine.core import ModelShape, Request, SamplingParams
from engine.errors import ConfigError, PeerLost
from engine.memory.base import MemoryPool
from engine.protocol import (
    FROM_PLANNER,
    TO_PLANNER,
    TO_STEP,
    Abort,
    BorrowOffer,
    Failed,
    Goodbye,
    Message,
    Register,
    Report,
    Submit,
)

log = logging.getLogger(__name__)

IDLE_S = 0.05
"""longest sleep of a process that waits for messages"""
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
    store: tuple[str, int] | None
    host: str = field(default_factory=socket.gethostname)


def planner(pipe: Connection, config: Config, address: str) -> int:
    """Answers heartbeats and queries; a restarted one listens where the old one did."""
    port = int(address.rpartition(":")[2]) if address else 0
    server = ControlServer(TO_PLANNER)
    pipe.send({"planner": server.bind(config.cluster.host, port)})
    gmanager = build_planner(config)
    while True:
        for peer, message in server.receive(1.0):
            answer = gmanager.handle(message, time.monotonic())
            if answer is not None:
                with suppress(PeerLost):  # it asked and left
                    server.send(peer, answer)


def pool(pipe: Connection, place: Place, memory: MemoryPool) -> int:
    """Serves the pool until it is killed; tells the planner how it is."""
    config = place.config
    transport = build_transport(config, memory)
    address = transport.listen()
    server, rmanager = build_pool_server(
        config,
        instance=place.instance,
        epoch=place.epoch,
        cluster=place.cluster,
        shape=place.shape,
        pool=memory,
        transport=transport,
        clock=lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    )
    pipe.send({"pool": address})
    client = ControlClient(place.planner, FROM_PLANNER) if place.planner else None
    next_beat = 0.0
    while True:
        server.serve_once(min(IDLE_S, config.cluster.heartbeat_s), [pipe.fileno()])
        while client is None and pipe.poll():
            client = ControlClient(pipe.recv()["planner"], FROM_PLANNER)
        if client is not None and time.monotonic() >= next_beat:
            next_beat = time.monotonic() + config.cluster.heartbeat_s
            with suppress(PeerLost):
                client.send(rmanager.heartbeat(address=address, host=place.host))


def step(pipe: Connection, place: Place, memory: MemoryPool, pool_address: str) -> int:
    """Serves requests until a Goodbye; returns its exit status."""
    import torch

    from engine.model import checkpoint as checkpoints

    config = place.config
    torch.set_num_threads(config.threads)
    planner_address = _meet(place)
    if planner_address == GONE:  # rank 0 has said why
        return 0
    pipe.send({"planner": planner_address})
    planner_client = ControlClient(planner_address, FROM_PLANNER)
    clients = ControlServer(TO_STEP)
    address = clients.bind(config.cluster.host, 0)
    owners: dict[str, bytes] = {}

    def to_planner(message: Message) -> None:
        with suppress(PeerLost):  # its queue is full: it is away, and will be asked again
            planner_client.send(message)

    def to_client(request_id: str, message: Message) -> None:
        peer = owners.get(request_id)
        if peer is None:
            return
        try:
            clients.send(peer, message)
        except PeerLost:  # nobody waits for this request any more
            del owners[request_id]
            loop.scheduler.abort(request_id)
            return
        if isinstance(message, Report | Failed):
            del owners[request_id]

    loop = build_loop(
        config,
        instance=place.instance,
        pool_epoch=place.epoch,
        step_epoch=time.time_ns() // 1_000_000,
        cluster=place.cluster,
        host=place.host,
        checkpoint=checkpoints.load(
            config.model.path,
            config.model.dtype,
            library=config.model.library,
            bits=config.model.bits,
        ),
        pool=memory,
        pool_address=pool_address,
        transport=build_transport(config),
        to_planner=to_planner,
        to_client=to_client,
        clock=lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    )
    next_register, num_unheard = 0.0, 0
    while True:
        for peer, message in clients.receive(0.0):
            match message:
                case Submit():
                    owners[message.request_id] = peer
                    loop.submit(_request(message))
                case Abort():
                    loop.scheduler.abort(message.request_id)
                case Goodbye():
                    loop.lenders.close()
                    return 0
        for message in planner_client.receive(0.0):
            if isinstance(message, BorrowOffer):
                loop.scheduler.on_offer(message, loop.now())
        if time.monotonic() >= next_register:  # again and again: the planner may restart
            next_register = time.monotonic() + 1.0
            to_planner(Register(place.instance, place.epoch, address))
            num_unheard = 0 if _listens(planner_address) else num_unheard + 1
            if num_unheard >= MAX_UNHEARD:
                log.warning("the planner at %s is gone, and this instance leaves", planner_address)
                return 0
        try:
            moved = loop.step()
        except PeerLost as error:
            log.warning("%s", error)
            return 1
        if not moved and not clients.pending() and not planner_client.pending():
            loop.wait(IDLE_S, [clients.fileno(), planner_client.fileno()])


def farewell(place: Place) -> int:
    """Rank 0 leaves before all have met: tell whoever still waits for the planner's address."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    assert place.store is not None
    host, port = place.store
    with suppress(RuntimeError):  # torchrun is gone as well, and with it the others
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
        store.set(f"lendkv/{place.cluster}/planner", GONE)
    return 0


def _listens(address: str) -> bool:
    """Whether somebody takes connections there; a planner that restarts is away for a moment."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=0.5):
            return True
    except OSError:
        return False


def _meet(place: Place) -> str:
    """The planner's address: rank 0 leaves it in torchrun's store, all others fetch it."""
    if place.store is None:
        return place.planner
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = place.store
    try:
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=MEET_S))
        key = f"lendkv/{place.cluster}/planner"
        if place.planner:
            store.set(key, place.planner)
        return str(store.get(key).decode())
    except RuntimeError as error:
        raise ConfigError(
            f"instance {place.instance} could not meet the others at torchrun's store "
            f"{host}:{port} within {MEET_S:g} s: {str(error).splitlines()[0]}"
        ) from error


def _request(message: Submit) -> Request:
    return Request(
        request_id=message.request_id,
        prompt_ids=tuple(message.prompt_ids),
        sampling=SamplingParams(
            max_tokens=message.max_tokens,
            temperature=message.temperature,
            top_p=message.top_p,
            top_k=message.top_k,
            seed=message.seed,
            ignore_eos=message.ignore_eos,
        ),
    )
