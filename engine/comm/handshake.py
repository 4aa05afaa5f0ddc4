"""How two processes of a host come to share memory: a Unix socket that passes sealed files.

Both prove first that they know the cluster's key (auth.py). The client makes the rings and sends
their file with its proof; the server checks it and answers with its pool's file, read-only, if it
has one. Sockets have abstract names, so a killed process leaves no file; only processes of the
same user are served, and asked.
"""

import array
import contextlib
import errno
import fcntl
import mmap
import os
import socket
import struct

from engine.comm import frame
from engine.comm.auth import CHALLENGE, TAG_BYTES, Dialer, Listener
from engine.comm.ring import PAGE_BYTES, shared_bytes
from engine.errors import ConfigError, PeerLost

HELLO = struct.Struct("<8sQ")
"""magic, bytes of each ring"""
MAGIC = b"LKVRING1"
WELCOME, REFUSED = b"+", b"-"
MAX_RING_BYTES = 1 << 30


def ring_fault(ring_bytes: int, max_body_bytes: int) -> str:
    """Why rings of this length would not do, or nothing."""
    needed = -(-2 * frame.max_frame_bytes(max_body_bytes) // PAGE_BYTES) * PAGE_BYTES
    if needed <= ring_bytes <= MAX_RING_BYTES and ring_bytes % PAGE_BYTES == 0:
        return ""
    return (
        f"ring_bytes is {ring_bytes}; max_body_bytes {max_body_bytes} needs at least {needed}, "
        f"at most {MAX_RING_BYTES}, in multiples of {PAGE_BYTES}"
    )


def cannot_shrink(fd: int) -> bool:
    """Whether a file may be mapped without fear of its other owner cutting it off (SIGBUS)."""
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        return False


def listen(name: str) -> socket.socket:
    """Raises ConfigError when the name is taken or too long."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.bind(f"\0{name}")
        sock.listen(128)
    except OSError as error:
        sock.close()
        why = "it is taken" if error.errno == errno.EADDRINUSE else str(error)
        raise ConfigError(f"cannot listen on shm://{name}: {why}; choose another name") from error
    sock.setblocking(False)
    return sock


def credentials(sock: socket.socket) -> tuple[int, int]:
    """Process and user at the other end."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid


def create_rings(num_bytes: int) -> int:
    """A file in memory that nobody can cut off any more. Raises ConfigError when there is none."""
    fd = -1
    try:
        fd = os.memfd_create("lendkv-rings", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, num_bytes)
        fcntl.fcntl(
            fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise ConfigError(
            f"no {num_bytes} bytes of shared memory for a channel ({error.strerror}); "
            "lower ring_bytes or use transport.name=tcp"
        ) from error
    return fd


def connect(
    address: str, rings: int, key: bytes, timeout_s: float
) -> tuple[socket.socket, mmap.mmap | None]:
    """Prove who we are, offer the rings; returns the socket and the peer's pool. PeerLost."""
    if not address.startswith("shm://"):
        raise PeerLost(f"{address!r} is not of the form shm://name")
    ring_bytes = os.fstat(rings).st_size // 2 - PAGE_BYTES
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fds: list[int] = []
    try:
        sock.settimeout(max(timeout_s, 1e-3))
        sock.connect(f"\0{address.removeprefix('shm://')}")
        if credentials(sock)[1] != os.getuid():
            raise PeerLost("belongs to another user")
        dialer = Dialer(key)
        sock.send(dialer.hello)
        proof, _ = dialer.take(sock.recv(CHALLENGE.size + 1))
        socket.send_fds(sock, [proof + HELLO.pack(MAGIC, ring_bytes)], [rings])
        answer, fds = _receive_fds(sock)
        if answer[:1] != WELCOME:
            reason = answer[1:].decode(errors="replace") or "closed by the peer"
            raise PeerLost(f"refused: {reason}")
        return sock, _map_region(address, fds[0]) if fds else None
    except OSError as error:
        sock.close()
        raise PeerLost(f"{address} does not answer within {timeout_s:g} s: {error}") from error
    except PeerLost as error:
        sock.close()
        raise PeerLost(f"{address} {error}") from None
    finally:
        for fd in fds:
            os.close(fd)


class Stranger:
    """A client that has connected and shares no memory yet."""

    def __init__(self, sock: socket.socket, key: bytes) -> None:
        self.sock = sock
        self._handshake = Listener(key)
        self._challenged = False

    def receive_rings(self, max_body_bytes: int, region_fd: int | None) -> mmap.mmap:
        """The rings it offers, checked and mapped, after answering it.

        Raises BlockingIOError while there is something for it to say yet, PeerLost when it does
        not belong here or its rings will not do.
        """
        if not self._challenged:
            hello = self.sock.recv(self._handshake.num_missing + 1)
            if len(hello) != self._handshake.num_missing:
                raise PeerLost(f"said {len(hello)} bytes that are no hello")
            self.sock.send(self._handshake.take(hello))
            self._challenged = True
        packet, fds = _receive_fds(self.sock)
        try:
            self._handshake.take(packet[:TAG_BYTES].ljust(TAG_BYTES))
        except PeerLost:
            for fd in fds:
                os.close(fd)
            raise
        return _share(self.sock, packet[TAG_BYTES:], fds, max_body_bytes, region_fd)


def _share(
    sock: socket.socket, hello: bytes, fds: list[int], max_body_bytes: int, region_fd: int | None
) -> mmap.mmap:
    """Map the rings of a member, whose files are closed here, and answer with the pool."""
    try:
        fault = _hello_fault(hello, fds, max_body_bytes)
        if fault:
            with contextlib.suppress(OSError):
                sock.send(REFUSED + fault.encode())
            raise PeerLost(fault)
        memory = mmap.mmap(fds[0], 2 * shared_bytes(HELLO.unpack(hello)[1]))
    finally:
        for fd in fds:
            os.close(fd)
    try:
        if region_fd is None:
            sock.send(WELCOME)
        else:
            # Opened anew, because the access mode belongs to the open file, not to the number.
            reader = os.open(f"/proc/self/fd/{region_fd}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                socket.send_fds(sock, [WELCOME], [reader])
            finally:
                os.close(reader)
    except OSError:
        memory.close()
        raise
    return memory


def _hello_fault(hello: bytes, fds: list[int], max_body_bytes: int) -> str:
    if len(hello) != HELLO.size or hello[:8] != MAGIC or len(fds) != 1:
        return f"no hello: {len(hello)} bytes with {len(fds)} files"
    ring_bytes = HELLO.unpack(hello)[1]
    if fault := ring_fault(ring_bytes, max_body_bytes):
        return fault
    if not cannot_shrink(fds[0]):
        return "the rings are not sealed against shrinking"
    if os.fstat(fds[0]).st_size != 2 * shared_bytes(ring_bytes):
        return f"rings of {os.fstat(fds[0]).st_size} bytes do not hold 2 x {ring_bytes}"
    return ""


def _map_region(address: str, fd: int) -> mmap.mmap:
    if not cannot_shrink(fd):
        raise PeerLost(f"the pool of {address} is not sealed against shrinking")
    return mmap.mmap(fd, 0, access=mmap.ACCESS_READ)


def _receive_fds(sock: socket.socket) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    room = socket.CMSG_SPACE(4 * fds.itemsize)
    data, ancillary, _, _ = sock.recvmsg(1024, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) // fds.itemsize * fds.itemsize])
    return data, list(fds)
