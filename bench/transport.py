"""A layer's ask and answer over each transport: ``python -m bench.transport [--json]``.

1.2 KB out, 2.4 KB back, p50 and p99, from 1 debtor and from 3 that ask a holder at the same time,
the holder's core idle or shared with a decode (a process that multiplies by a matrix larger than
the caches, as the holder's own step does). The holder has one core, the debtors share another.
The peer is a bare Unix socket of the same run, and rounds alternate. Bulk: messages of 1 MiB, each
answered by a small one, a few on their way at a time.
"""

import argparse
import json
import multiprocessing
import os
import select
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

from engine.comm import TRANSPORTS
from engine.errors import PeerLost

ASK_BYTES, ANSWER_BYTES = 1200, 2400
BULK_BYTES, BULK_WINDOW = 1 << 20, 4
DEBTORS = (1, 3)
BARE = "Unix socket"
WARM_S = 0.05

spawn = multiprocessing.get_context("spawn")


def pin(number: int) -> None:
    """This process to one core: 0 the debtors', 1 the holder's."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})


def hold(name: str, pipe: Connection) -> None:
    """Answers every message until it is ended."""
    pin(1)
    answer = bytes(ANSWER_BYTES)
    if name == BARE:
        _hold_bare(answer, pipe)
    kind = TRANSPORTS.load(name)
    transport = kind(kind.Config())
    pipe.send(transport.listen())
    channels: list[Any] = []
    while True:
        for channel in transport.wait(channels, 1.0):
            while (message := channel.receive()) is not None:
                channel.send(message[0], answer)
        channels += transport.accept()


def _hold_bare(answer: bytes, pipe: Connection) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind("")  # the kernel gives it a name
    listener.listen()
    pipe.send(listener.getsockname())
    poll, peers = select.poll(), {listener.fileno(): listener}
    poll.register(listener, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                peer, _ = listener.accept()
                peers[peer.fileno()] = peer
                poll.register(peer, select.POLLIN)
            else:
                peers[fd].recv(4096)
                peers[fd].send(answer)


def asker(name: str, address: Any) -> tuple[Callable[[], None], Callable[[float], float]]:
    """One ask and its answer; and the GB/s of bulk over so many seconds."""
    body, bulk = bytes(ASK_BYTES), bytes(BULK_BYTES)
    if name == BARE:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(address)

        def ask_bare() -> None:
            sock.send(body)
            sock.recv(4096)

        return ask_bare, lambda _: 0.0
    kind = TRANSPORTS.load(name)
    transport = kind(kind.Config())
    channel = transport.connect(address, 10.0)

    def take() -> None:
        while channel.receive() is None:
            transport.wait([channel], 1.0)

    def ask() -> None:
        channel.send(b"ask 0 1 2", body)
        take()

    def move(seconds: float) -> float:
        sent, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            channel.send(b"bulk", bulk)
            sent += 1
            if sent > BULK_WINDOW:
                take()
        for _ in range(min(sent, BULK_WINDOW)):
            take()
        return sent * BULK_BYTES / (time.perf_counter() - began) / 1e9

    return ask, move


def debtor(name: str, address: Any, pipe: Connection) -> None:
    """Asks when told to, for as long as it is told to."""
    pin(0)
    ask, move = asker(name, address)
    pipe.send("ready")
    while True:
        try:
            what, seconds = pipe.recv()
        except EOFError:
            return  # all is measured
        if what == "bulk":
            pipe.send(move(seconds))
            continue
        times, now = [], time.perf_counter()
        warm, end = now + WARM_S, now + seconds
        while now < end:
            ask()
            before, now = now, time.perf_counter()
            if before > warm:
                times.append(1e6 * (now - before))
        pipe.send(times)


def decode(busy: Event) -> None:
    """The holder's own step: computes on its core while it is told to."""
    import torch

    pin(1)
    torch.set_num_threads(1)
    weights, rows = torch.ones(8192, 8192, dtype=torch.bfloat16), torch.ones(8192, 8).bfloat16()
    while True:
        busy.wait()
        weights @ rows


class Pair:
    """A holder and its debtors, started once and measured in turn with the other transports'."""

    def __init__(self, name: str) -> None:
        self.name = name
        pipe = self._start(hold)
        address = pipe.recv()
        self._pipes = [self._start(debtor, address) for _ in range(max(DEBTORS))]
        for pipe in self._pipes:
            pipe.recv()

    def ask(self, debtors: int, seconds: float) -> tuple[float, float]:
        """p50 and p99 in microseconds of so many debtors' asks."""
        for pipe in self._pipes[:debtors]:
            pipe.send(("ask", seconds))
        times = [one for pipe in self._pipes[:debtors] for one in pipe.recv()]
        cuts = statistics.quantiles(times, n=100)
        return cuts[49], cuts[98]

    def bulk(self, seconds: float) -> float:
        self._pipes[0].send(("bulk", seconds))
        rate: float = self._pipes[0].recv()
        return rate

    def _start(self, main: Callable[..., None], *arguments: Any) -> Connection:
        ours, theirs = spawn.Pipe()
        start(main, self.name, *arguments, theirs)
        return ours


def _talk(main: Callable[..., None], *arguments: Any) -> None:
    with suppress(ConnectionError, PeerLost):  # the one it talks with was ended before it
        main(*arguments)


def start(main: Callable[..., None], *arguments: Any) -> None:
    """A process that ends with this one, which alone hears Ctrl-C."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a child inherits it
    try:
        spawn.Process(target=_talk, args=(main, *arguments), daemon=True).start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def main() -> int:
    known = [name for name in TRANSPORTS.names() if name != "loopback"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--transports", default=",".join(known))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each measurement")
    args = parser.parse_args()
    busy = spawn.Event()
    start(decode, busy)
    pairs = [Pair(name) for name in (BARE, *args.transports.split(","))]
    asks: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    bulk: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for state in ("idle", "decoding"):
            (busy.set if state == "decoding" else busy.clear)()
            for count in DEBTORS:
                for pair in pairs:
                    found = pair.ask(count, args.seconds)
                    asks.setdefault((pair.name, count, state), []).append(found)
        busy.clear()
        for pair in pairs[1:]:
            bulk.setdefault(pair.name, []).append(pair.bulk(args.seconds))
    facts: list[dict[str, Any]] = []
    print(f"{'':12}{'debtors':>8} {'holder':9}{'p50 us':>8}{'p99 us':>9}   p50 of rounds, of bare")
    for (name, count, state), rounds in asks.items():
        p50, p99 = (statistics.median(values) for values in zip(*rounds, strict=True))
        bare = statistics.median(one for one, _ in asks[BARE, count, state])
        least, most = min(rounds)[0], max(rounds)[0]
        facts.append(
            {
                "transport": name,
                "debtors": count,
                "holder": state,
                "p50_us": round(p50, 1),
                "p99_us": round(p99, 1),
                "p50_spread_us": [round(least, 1), round(most, 1)],
                "p50_of_bare": round(p50 / bare, 2),
            }
        )
        print(
            f"{name:12}{count:8} {state:9}{p50:8.1f}{p99:9.1f}   {least:.1f} to {most:.1f}, "
            f"{p50 / bare:.2f}"
        )
    rates = {name: round(statistics.median(found), 2) for name, found in bulk.items()}
    print("bulk GB/s: " + ", ".join(f"{name} {rate}" for name, rate in rates.items()))
    if args.json:
        print(json.dumps({"asks": facts, "bulk_gb_s": rates}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
