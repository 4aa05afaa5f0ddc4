"""The role of the planner: what its process runs, beside rank 0's instance. Imports no torch."""

import time
from contextlib import suppress
from multiprocessing.connection import Connection

from engine.build import build_planner, layout_of
from engine.comm.control import ControlServer
from engine.comm.sockets import advertised
from engine.errors import PeerLost
from engine.meeting import Place
from engine.protocol import TO_PLANNER, Message


def planner(pipe: Connection, place: Place) -> int:
    """Answers heartbeats and queries; a restarted one listens where the old one did."""
    config = place.config
    server = ControlServer(TO_PLANNER, place.key)
    port = int(place.planner.rpartition(":")[2]) if place.planner else config.cluster.port
    address = server.bind(config.cluster.host, port)
    machine = build_planner(
        config,
        cluster=place.cluster,
        layout=layout_of(config, place.shape),
        num_first=place.next_number,
        now=time.monotonic(),
    )
    pipe.send({"planner": advertised(address, config.cluster.advertise)})
    next_number = machine.next_number
    while True:
        said: list[tuple[bytes, Message]] = []
        for peer, message in server.receive(min(1.0, config.planner.plan_s or 1.0)):
            said += machine.handle(peer, message, time.monotonic())
        said += machine.tick(time.monotonic())
        if machine.next_number != next_number:  # the supervisor knows it before its owner does
            next_number = machine.next_number
            pipe.send({"next_number": next_number})
        for to, message in said:
            with suppress(PeerLost):  # it asked and left
                server.send(to, message)
