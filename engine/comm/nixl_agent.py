"""One process's end of NIXL: memory that it shows, peers it knows, writes into their memory.

Nothing here waits: a thread of NIXL's goes on with the writes, and their state is asked for.
"""

import contextlib
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from engine.comm.base import Buffer
from engine.errors import ConfigError, PeerLost

try:
    # Its Python layer has no word for how often NIXL's thread looks, which is all the time there.
    import nixl_cu12._bindings as nixl
except ModuleNotFoundError as error:
    raise ConfigError(
        "transport nixl needs the package nixl-cu12, which is not installed: "
        "pip install 'lendkv[nixl]'"
    ) from error

BACKEND = "UCX"
LOOK_EVERY_US = 10_000
"""NIXL's thread is woken by what comes; it looks so often where nothing wakes it"""
QUIET = {"UCX_LOG_LEVEL": "fatal", "NIXL_LOG_LEVEL": "FATAL"}
"""a peer that ends is no news for standard output; who sets these himself sees it all"""


class Agent:
    """Raises ConfigError when UCX cannot start."""

    def __init__(self, ucx_tls: str = "") -> None:
        """``ucx_tls``: what UCX may use, as in its variable UCX_TLS; empty leaves it to UCX."""
        config = nixl.nixlAgentConfig()
        config.useProgThread = True
        config.useListenThread = False
        config.syncMode = nixl.NIXL_THREAD_SYNC_STRICT
        config.pthrDelay = LOOK_EVERY_US
        self._peers: Counter[str] = Counter()
        try:
            with _environment({"UCX_TLS": ucx_tls} if ucx_tls else {}):
                self._agent: Any = nixl.nixlAgent(f"lendkv-{secrets.token_hex(16)}", config)
                # So that the end of a peer is an error of its writes, never of this process.
                modes = {"ucx_error_handling_mode": "peer"}
                self._backends = [self._agent.createBackend(BACKEND, modes)]
        except Exception as error:  # NIXL's errors have nothing else in common
            wanted = f"ucx_tls={ucx_tls!r}" if ucx_tls else "what UCX finds here"
            raise ConfigError(
                f"NIXL cannot start UCX over {wanted} ({error}); on a host without a GPU or "
                "InfiniBand ucx_tls must name tcp (ucx_tls=tcp,cma adds shared memory)"
            ) from error

    def close(self) -> None:
        """Ends all that is under way."""
        self._agent = None

    def show(self, address: int, num_bytes: int) -> Any:
        """Registers memory: a write may start there, and whoever has its ``card`` may write."""
        shown = nixl.nixlRegDList(nixl.DRAM_SEG, [(address, num_bytes, 0, "")])
        self._agent.registerMem(shown, self._backends)
        return shown

    def hide(self, shown: Any) -> None:
        """The counterpart of ``show``."""
        with contextlib.suppress(Exception):  # as good as hidden
            self._agent.deregisterMem(shown, self._backends)

    def card(self, shown: Any) -> bytes:
        """What a peer needs to write there, and only there."""
        card: bytes = self._agent.getLocalPartialMD(shown, True, self._backends)
        return card

    def meet(self, card: bytes) -> str:
        """The name of the agent behind a peer's card. Raises PeerLost when it is out of reach."""
        try:
            found: Any = self._agent.loadRemoteMD(card)
        except Exception as error:
            raise PeerLost(f"NIXL cannot reach it ({error})") from error
        name: str = found.decode() if isinstance(found, bytes) else found
        self._peers[name] += 1
        return name

    def part(self, name: str) -> None:
        """The counterpart of ``meet``."""
        self._peers[name] -= 1
        if not self._peers[name]:
            del self._peers[name]
            with contextlib.suppress(Exception):  # it may have gone by itself
                self._agent.invalidateRemoteMD(name)

    def write(self, name: str, here: int, there: int, num_bytes: int) -> "Write":
        """Starts to copy from memory shown here to memory that the peer has shown. PeerLost."""
        try:
            handle = self._agent.createXferReq(
                nixl.NIXL_WRITE,
                nixl.nixlXferDList(nixl.DRAM_SEG, [(here, num_bytes, 0)]),
                nixl.nixlXferDList(nixl.DRAM_SEG, [(there, num_bytes, 0)]),
                name,
                b"",
                self._backends,
            )
            write = Write(self._agent, handle)
            write.post()
            return write
        except Exception as error:
            raise PeerLost(f"NIXL cannot write to it ({error})") from error


class Write:
    """A copy under way."""

    def __init__(self, agent: Any, handle: int) -> None:
        self._agent = agent
        self._handle = handle
        self._state: Any = nixl.NIXL_IN_PROG

    def post(self) -> None:
        try:
            self._state = self._agent.postXferReq(self._handle, b"")
        except Exception:
            self.end()
            raise

    def is_done(self) -> bool:
        """Whether all of it is in the peer's memory. Raises PeerLost when it never will be."""
        try:
            if self._state == nixl.NIXL_IN_PROG:
                self._state = self._agent.getXferStatus(self._handle)
        except Exception as error:
            raise PeerLost(f"NIXL cannot write to it ({error})") from error
        if self._state not in (nixl.NIXL_IN_PROG, nixl.NIXL_SUCCESS):
            raise PeerLost(f"NIXL cannot write to it ({self._state})")
        return bool(self._state == nixl.NIXL_SUCCESS)

    def end(self) -> None:
        """Gives its handle back; what is still under way may yet arrive."""
        if self._agent is not None:
            with contextlib.suppress(Exception):  # NIXL ends it with the agent
                self._agent.releaseXferReq(self._handle)
        self._agent = None


def address_of(buffer: Buffer) -> int:
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


@contextlib.contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    """UCX and NIXL are told by the environment, and read it when an agent is made."""
    before = dict(os.environ)
    os.environ.update(QUIET | before | wanted)
    try:
        yield
    finally:
        for name in QUIET | wanted:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)
