"""A torch.distributed group of two, for one direction. Knows nothing of frames and queues.

The store through which its members meet is the control socket between them (``SocketStore``): it
begins and ends with the channel, so no address in it is ever stale, no key has to be deleted, and
a peer that dies meanwhile is the end of a stream, not a wait for a distant store.
"""

import socket
import struct
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from time import monotonic
from typing import Any

import torch
import torch.distributed as dist

from engine.errors import PeerLost

SENDER, RECEIVER = 0, 1
"""ranks in a group"""
FOREVER = timedelta(days=365)
"""for every operation: a timeout would close the pair, and how long to wait is the caller's"""
KEY_LENGTHS = struct.Struct("<II")
"""bytes of key and value; both 0 after the last"""
MAX_KEY_BYTES, MAX_VALUE_BYTES = 1 << 10, 1 << 16


class SocketStore(dist.Store):  # type: ignore[name-defined, misc]  # torch's types hide it
    """What either side sets, both sides get. Used by one thread, until ``finish``."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        super().__init__()
        self._socket = sock
        self._deadline = deadline
        self._values: dict[str, bytes] = {}
        self._finished = False

    def set(self, key: str, value: bytes) -> None:
        self._values[key] = bytes(value)
        if not self._finished:
            raw = key.encode()
            self._socket.settimeout(self._left_s())
            self._socket.sendall(KEY_LENGTHS.pack(len(raw), len(value)) + raw + bytes(value))

    def get(self, key: str) -> bytes:
        self.wait([key])
        return self._values[key]

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        while not self.check(list(keys)):
            if self._finished or not self._read():
                raise PeerLost(f"{keys} is missing: the peer had no more to say")

    def check(self, keys: list[str]) -> bool:
        return all(key in self._values for key in keys)

    def has_extended_api(self) -> bool:
        return False

    def finish(self) -> None:
        """Leave the socket to others, once the peer has said all it had to."""
        self._socket.sendall(KEY_LENGTHS.pack(0, 0))
        while self._read():
            pass
        self._finished = True

    def read(self, num_bytes: int) -> bytes:
        """Exactly so many bytes from the socket, within the deadline."""
        data = b""
        while len(data) < num_bytes:
            self._socket.settimeout(self._left_s())
            more = self._socket.recv(num_bytes - len(data))
            if not more:
                raise PeerLost("closed by the peer")
            data += more
        return data

    def _read(self) -> bool:
        """Take one key; False after the last."""
        key_bytes, value_bytes = KEY_LENGTHS.unpack(self.read(KEY_LENGTHS.size))
        if key_bytes > MAX_KEY_BYTES or value_bytes > MAX_VALUE_BYTES:
            raise PeerLost(
                f"a key of {key_bytes} bytes and a value of {value_bytes} is no greeting"
            )
        if not key_bytes:
            return False
        key = self.read(key_bytes).decode(errors="replace")
        self._values[key] = self.read(value_bytes)
        return True

    def _left_s(self) -> float:
        left_s = self._deadline - monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        return left_s


class GlooGroup:
    """Sends tensors in the host's memory from SENDER to RECEIVER; both calls block."""

    def __init__(
        self, store: SocketStore, name: str, *, rank: int, host: str, device: int, timeout_s: float
    ) -> None:
        self._device = torch.device("cuda", device)
        self._store = store  # torch keeps only the half of it that is written in C++
        self._peer = 1 - rank
        self._lock = threading.Lock()
        self._aborted = self._pending = False
        prefixed = dist.PrefixStore(name, store)  # type: ignore[attr-defined]
        self._group = self._make(prefixed, rank, host, timeout_s)

    def send(self, tensor: torch.Tensor) -> None:
        self._run(lambda: self._group.send([tensor], self._peer, 0))

    def receive(self, tensor: torch.Tensor, num_bytes: int) -> None:
        """``num_bytes`` are due, but all of ``tensor`` is offered: a message longer than what is
        posted would end this process (gloo aborts). Whoever sends more than that still can."""
        del num_bytes
        self._run(lambda: self._group.recv([tensor], self._peer, 0))

    def abort(self) -> None:
        """Wake whoever waits in ``send`` or ``receive``, with RuntimeError. From any thread."""
        with self._lock:
            self._aborted = True
            if not self._pending:
                return
        # The one way gloo has to give up an operation: another on the same pair that times out.
        try:
            never = self._group.recv([torch.empty(1, dtype=torch.uint8)], self._peer, 1)
            never.wait(timedelta(milliseconds=1))
        except RuntimeError:
            pass

    @staticmethod
    def _make(store: Any, rank: int, host: str, timeout_s: float) -> Any:
        options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=host)]
        options._timeout = timedelta(seconds=timeout_s)
        options._threads = 1
        return dist.ProcessGroupGloo(store, rank, 2, options)

    def _run(self, post: Callable[[], dist.Work]) -> None:
        with self._lock:
            if self._aborted:
                raise RuntimeError("closed here")
            work = post()
            self._pending = True
        work.wait(FOREVER)
        with self._lock:
            self._pending = False


class NcclGroup(GlooGroup):
    """The same between GPUs: tensors pass through a device's memory.

    NCCL needs equal lengths at both ends, and a GPU for each of them.
    """

    def __init__(
        self, store: SocketStore, name: str, *, rank: int, host: str, device: int, timeout_s: float
    ) -> None:
        super().__init__(store, name, rank=rank, host=host, device=device, timeout_s=timeout_s)
        # The communicator is made on first use, with keys from the store.
        first = torch.zeros(1, dtype=torch.uint8)
        if rank == SENDER:
            self.send(first)
        else:
            self.receive(first, 1)

    def send(self, tensor: torch.Tensor) -> None:
        staged = tensor.to(self._device)
        super().send(staged)
        # sync: the caller writes to ``tensor`` again
        torch.cuda.current_stream(self._device).synchronize()

    def receive(self, tensor: torch.Tensor, num_bytes: int) -> None:
        staged = torch.empty(num_bytes, dtype=torch.uint8, device=self._device)
        super().receive(staged, num_bytes)
        tensor[:num_bytes].copy_(staged)  # sync: the bytes are read on the host

    def abort(self) -> None:
        with self._lock:
            self._aborted = True
        self._group.abort()

    @staticmethod
    def _make(store: Any, rank: int, host: str, timeout_s: float) -> Any:
        del host, timeout_s  # NCCL_SOCKET_IFNAME says where; a timeout would end the process
        return dist.ProcessGroupNCCL(store, rank, 2, FOREVER)  # type: ignore[arg-type]


GROUPS = {"gloo": GlooGroup, "nccl": NcclGroup}
