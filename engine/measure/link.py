"""Link: a question's round trip and the rate of copies between two processes over the transport."""

import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from engine.build import build_transport
from engine.children import fork, stop
from engine.comm.base import Channel, Transport
from engine.config import Config

ASK_BYTES, ANSWER_BYTES = 1200, 2400
"""of one row in a layer of a small model"""
COPY_BYTES, WINDOW = 1 << 20, 4
SECONDS = 0.5
"""of each of the two"""
CONNECT_S = 10.0


def measure_link(config: Config, key: bytes, there: Callable[[], None]) -> tuple[float, float]:
    """Seconds of a round trip, and bytes a second. ``there`` pins the other process."""
    child = fork("link", lambda pipe: _answer(config, key, there, pipe))
    transport = build_transport(config, key=key)
    try:
        while not (said := child.messages()):
            time.sleep(0.005)
        channel = transport.connect(said[0]["address"], CONNECT_S)
        return _ask(transport, channel), _copy(transport, channel)
    finally:
        transport.close()
        stop([child], patience_s=0.0)


def _answer(config: Config, key: bytes, there: Callable[[], None], pipe: Connection) -> int:
    there()
    transport = build_transport(config, key=key)
    pipe.send({"address": transport.listen()})
    answer, channels = bytes(ANSWER_BYTES), list[Channel]()
    while True:
        for channel in transport.wait(channels, 1.0):
            while (message := channel.receive()) is not None:
                channel.send(message[0], answer)
        channels += transport.accept()


def _take(transport: Transport, channel: Channel) -> None:
    while channel.receive() is None:
        transport.wait([channel], 1.0)


def _ask(transport: Transport, channel: Channel) -> float:
    times, question = [], bytes(ASK_BYTES)
    ends = time.perf_counter() + SECONDS
    while (now := time.perf_counter()) < ends:
        channel.send(b"ask", question)
        _take(transport, channel)
        times.append(time.perf_counter() - now)
    return statistics.median(times)


def _copy(transport: Transport, channel: Channel) -> float:
    part = bytes(min(COPY_BYTES, channel.max_body_bytes))
    sent, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        channel.send(b"copy", part)
        sent += 1
        if sent > WINDOW:
            _take(transport, channel)
    for _ in range(min(sent, WINDOW)):
        _take(transport, channel)
    return sent * len(part) / (time.perf_counter() - began)
