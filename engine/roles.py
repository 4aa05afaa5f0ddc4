"""The roles of an instance, as processes: its pool and its step. Only step imports torch."""

import dataclasses
import logging
import time
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection

from msgspec.structs import replace

from engine import devices
from engine.build import (
    build_loop,
    build_pool,
    build_pool_server,
    build_transport,
    layout_of,
)
from engine.build_parted import build_parted_pool
from engine.children import LOST_ANOTHER
from engine.comm.control import ControlClient, ControlServer
from engine.comm.kv_publisher import KvPublisher
from engine.comm.sockets import advertised
from engine.errors import PeerLost
from engine.heap import give_back_freed
from engine.hosted_pool import HostedPool
from engine.meeting import GONE, Place, PlannerLife, meet
from engine.memory.base import MemoryPool
from engine.model.checkpoint import load_tokenizer
from engine.protocol import (
    FROM_PLANNER,
    TO_STEP,
    Abort,
    BorrowOffer,
    Evacuate,
    Explain,
    Failed,
    Freeze,
    Goodbye,
    HandedOver,
    Heartbeat,
    Lend,
    Load,
    Members,
    Message,
    Move,
    Register,
    Report,
    Resend,
    Settle,
    Submit,
)
from engine.scheduler.directory import MemberList
from engine.scheduler.reports import Series
from engine.team import ALONE, Team

log = logging.getLogger(__name__)

IDLE_S = 0.05
"""longest sleep of a process that waits for messages"""
LOAD_EVERY_S = 0.25
LEAVE_S = 30.0
"""how long a pool that leaves waits for others to give back what it lent them"""


def pool(pipe: Connection, place: Place, memory: MemoryPool) -> int:
    """Serves the pool until it is killed or told to leave; tells the planner how it is."""
    config = place.config
    transport = build_transport(config, memory, key=place.key)
    address = advertised(transport.listen(), config.cluster.advertise)
    server, rmanager = build_pool_server(
        config,
        instance=place.instance,
        epoch=place.epoch,
        cluster=place.cluster,
        shape=place.shape,
        pool=memory,
        transport=transport,
        clock=_boottime,
    )
    pipe.send({"pool": address})
    client = ControlClient(place.planner, FROM_PLANNER, place.key)
    planner_life = PlannerLife(place.planner)
    beats = Series[Heartbeat]()
    next_beat = next_look = 0.0
    leave_by = None
    lends, num_lent = place.lends, 0
    if not lends:
        server.lend(False)
    while True:
        server.serve_once(min(IDLE_S, config.cluster.heartbeat_s), [pipe.fileno(), client.fileno()])
        now = time.monotonic()
        told_to_leave = pipe.poll() and pipe.recv() == {"leave": True}
        for message in client.receive(0.0):
            match message:
                case Freeze():
                    rmanager.freeze(message.num_blocks, message.for_s, _boottime())
                case Evacuate():  # else the step is asked, as soon as the planner knows of it
                    told_to_leave |= config.cluster.donor
                case Lend():
                    lends = message.on
                    server.lend(lends)
                    pipe.send({"lends": lends})  # for the pool that follows
                case Resend():
                    beats.resend()
        if told_to_leave and leave_by is None:
            leave_by = now + LEAVE_S
        if now >= next_beat:
            next_beat = now + config.cluster.heartbeat_s
            if leave_by is not None or (num_lent and not lends):  # again: what comes back stays
                server.lend(False)
            beat = rmanager.heartbeat(address=address, host=place.host, now=_boottime())
            num_lent = beat.num_lent
            with suppress(PeerLost):
                client.send(beats.next(replace(beat, counts=dict(server.counts))))
            if leave_by is not None and (not beat.num_lent or now >= leave_by):
                client.close()
                return 0
        if config.cluster.donor and now >= next_look:
            next_look = now + 1.0
            if planner_life.is_over():
                return 0


def step(pipe: Connection, place: Place, memory: MemoryPool | None, team: Team = ALONE) -> int:
    """Serves requests until a Goodbye, as rank 0 of its team; returns its exit status.

    Without ``memory`` it makes the pool's, and has the pool's role on a thread.
    """
    tokenizer = None
    if place.config.model.library == "lendkv":  # before torch, which fills what reading it freed
        tokenizer = load_tokenizer(place.config.model.path)
    import torch

    from engine.build_attention import load_model, model_device

    ranks = [place.seated(rank) for rank in range(place.config.tp)]
    place = ranks[0]
    config = place.config
    device = model_device(config)
    devices.enter(device)
    torch.set_num_threads(config.threads)
    planner_address, key = meet(place)
    if planner_address == GONE:  # rank 0 has said why
        return 0
    pipe.send({"planner": planner_address, "key": key})
    epoch = time.time_ns() // 1_000_000
    team.start(key, epoch)
    planner_client = ControlClient(planner_address, FROM_PLANNER, key)
    planner_life = PlannerLife(planner_address)
    clients = ControlServer(TO_STEP, key)
    address = advertised(clients.bind(config.cluster.host, 0), config.cluster.advertise)
    members, owners = MemberList(), dict[str, bytes]()
    hosted = None
    if memory is None:
        layout = layout_of(config, place.shape)
        if config.tp == 1:
            memory = build_pool(config, layout)
        else:
            memory = build_parted_pool(layout, [one.config for one in ranks])
            team.show([part.share() for _, part in memory.parts])
            devices.enter(memory.device)
        there = dataclasses.replace(place, planner=planner_address, key=key)
        hosted = HostedPool(partial(pool, place=there, memory=memory), memory.device)

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
            loop.abort(request_id)
            return
        if isinstance(message, Report | Failed | HandedOver):
            del owners[request_id]

    loop = build_loop(
        config,
        instance=place.instance,
        pool_epoch=place.epoch,
        step_epoch=epoch,
        cluster=place.cluster,
        host=place.host,
        checkpoint=load_model(config),
        tokenizer=tokenizer,
        pool=memory,
        pool_address=hosted.address if hosted else pipe.recv()["pool"],
        transport=build_transport(config, memory, key=key),
        to_planner=to_planner,
        to_client=to_client,
        clock=_boottime,
        collective=team.meet(device),
        ranks=team.pipes,
    )
    publisher = None
    if config.kv_events.endpoint:
        publisher = KvPublisher(config.kv_events, instance=place.instance)
        loop.scheduler.contents.start()
    loop.constrained.get_ready()
    samples, loads = loop.profile(), Series[Load]()
    give_back_freed()  # that the timed steps used
    to_planner(loads.next(replace(loop.accounts.load(loop.now()), samples=samples)))
    next_register = next_load = 0.0
    told_to_leave = told_to_end = asked_to_leave = False

    def listen() -> None:
        nonlocal told_to_leave, told_to_end
        for peer, message in clients.receive(0.0):
            match message:
                case Submit():
                    owners[message.request.request_id] = peer
                    loop.submit(message.request)
                case Abort():
                    loop.abort(message.request_id)
                case Explain():
                    explained = loop.accounts.explain(message.request_id)
                    if explained is not None:
                        with suppress(PeerLost):  # it asked and left
                            clients.send(peer, explained)
                case Goodbye():
                    told_to_end = True
        for message in planner_client.receive(0.0):
            match message:
                case BorrowOffer():
                    loop.scheduler.on_offer(message, loop.now())
                case Members():
                    whole = Members(members.heard(message))
                    loop.scheduler.on_advice(whole, loop.now())
                case Move() | Settle() | Evacuate():
                    loop.scheduler.on_advice(message, loop.now())
                    told_to_leave |= isinstance(message, Evacuate) and message.leave
                case Resend():
                    loads.resend()

    while True:
        listen()
        if told_to_end:
            loop.close()
            return 0
        now = time.monotonic()
        if now >= next_load:
            next_load = now + LOAD_EVERY_S
            to_planner(loads.next(loop.accounts.load(loop.now())))
        if now >= next_register:  # again and again: the planner may restart
            next_register = now + 1.0
            to_planner(Register(place.instance, place.epoch, address))
            to_planner(members.query())
            if hosted:
                hosted.pass_on(pipe)
            while pipe.poll():
                asked_to_leave |= pipe.recv() == {"leave": True}
            if asked_to_leave and not told_to_leave:  # the planner is to know it first
                to_planner(Evacuate(place.instance))
            if planner_life.is_over():
                return 0
        if told_to_leave and loop.scheduler.evacuated:
            to_planner(Register(place.instance, place.epoch, ""))
            for ours in (clients, planner_client):
                ours.close()  # waits a moment for the last words
            loop.close()
            if hosted:
                hosted.leave()
            pipe.send({"left": True})
            return 0
        try:
            loop.await_answers(listen, [clients.fileno(), planner_client.fileno()])
            moved = loop.step()
        except PeerLost as error:
            log.warning("%s", error)
            return LOST_ANOTHER
        if publisher is not None:
            publisher.publish(loop.scheduler.contents.take())
            publisher.serve_replays()
        if not moved and not clients.pending() and not planner_client.pending():
            loop.wait(IDLE_S, [clients.fileno(), planner_client.fileno()])


def _boottime() -> float:
    """Seconds that leases are counted in; go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
