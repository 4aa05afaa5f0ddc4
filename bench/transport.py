"""Round trips and bulk rates of the transports: ``python -m bench.transport``.

One layer's ask and answer (1.2 KB out, 2.4 KB back) between two processes, against a bare Unix
socket in the same run, because times on a shared machine only compare within one run.
"""

import multiprocessing
import socket
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from engine.comm import TRANSPORTS

ASK_BYTES, ANSWER_BYTES = 1200, 2400
NUM_ROUNDS = 5000
BULK_BYTES, NUM_BULK, BULK_WINDOW = 1 << 20, 500, 4
ASLEEP = {"spin_s": 0.0}
CASES: tuple[tuple[str, dict[str, float]], ...] = (
    ("shm", {}),
    ("shm", ASLEEP),
    ("tcp", {}),
    ("tcp", ASLEEP),
    ("torch", {}),
)


def serve(name: str, options: dict[str, float], pipe: Connection) -> None:
    """Answers every message."""
    kind = TRANSPORTS.load(name)
    transport = kind(kind.Config(**options))
    pipe.send(transport.listen())
    transport.wait([], 10.0)
    while not (channels := transport.accept()):
        transport.wait([], 10.0)
    answer = bytes(ANSWER_BYTES)
    while True:
        for channel in transport.wait(channels, 10.0):
            while (message := channel.receive()) is not None:
                if message[0] == b"end":
                    transport.close()
                    return
                channel.send(message[0], answer)


def serve_bare(pipe: Connection, sock: socket.socket) -> None:
    pipe.send("")
    answer = bytes(ANSWER_BYTES)
    while sock.recv(4096):
        sock.send(answer)


def measure(ask: Callable[[], object]) -> str:
    times = []
    for _ in range(NUM_ROUNDS):
        start = time.perf_counter_ns()
        ask()
        times.append((time.perf_counter_ns() - start) / 1000)
    times = times[NUM_ROUNDS // 10 :]
    return f"{statistics.median(times):8.1f} {statistics.quantiles(times, n=10)[-1]:8.1f}"


def run(name: str, options: dict[str, float]) -> None:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=serve, args=(name, options, theirs), daemon=True)
    process.start()
    kind = TRANSPORTS.load(name)
    transport = kind(kind.Config(**options))
    channel = transport.connect(ours.recv(), 10.0)
    body = bytes(ASK_BYTES)

    def take() -> None:
        while channel.receive() is None:
            transport.wait([channel], 1.0)

    def ask() -> None:
        channel.send(b"ask 0 1 2", body)
        take()

    title = f"{name}, sleeps" if options else name
    print(f"{title:12}{measure(ask)}", end="", flush=True)
    bulk = bytes(BULK_BYTES)
    start = time.perf_counter()
    for i in range(NUM_BULK):
        channel.send(b"bulk", bulk)
        if i >= BULK_WINDOW:
            take()
    for _ in range(BULK_WINDOW):
        take()
    print(f" {BULK_BYTES * NUM_BULK / (time.perf_counter() - start) / 1e9:8.2f}")
    channel.send(b"end")
    process.join(5)
    transport.close()


def run_bare() -> None:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = spawn.Process(target=serve_bare, args=(theirs, far), daemon=True)
    process.start()
    ours.recv()
    body = bytes(ASK_BYTES)

    def ask() -> None:
        near.send(body)
        near.recv(4096)

    print(f"{'Unix socket':12}{measure(ask)}")
    far.close()
    near.close()
    process.join(5)


def main() -> None:
    print(f"{'':12}{'median us':>9}{'p90':>8}{'GB/s':>9}")
    run_bare()
    for name, options in CASES:
        run(name, options)


if __name__ == "__main__":
    main()
