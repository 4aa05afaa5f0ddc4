"""Listening and dialling over plain TCP sockets, for the transports that begin with one."""

import errno
import logging
import socket
from time import monotonic

from engine.comm.auth import CHALLENGE, Dialer, Session
from engine.errors import ConfigError, PeerLost

log = logging.getLogger(__name__)


def listener_at(scheme: str, host: str, port: int) -> socket.socket:
    """A non-blocking listener; port 0 takes a free one. ConfigError with the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        taken = getattr(error, "errno", 0) == errno.EADDRINUSE
        raise ConfigError(
            f"cannot listen on {scheme}://{host}:{port} "
            f"({getattr(error, 'strerror', None) or error}); "
            + ("choose another port, or 0 for a free one" if taken else "check host and port")
        ) from error
    listener.setblocking(False)
    return listener


def accept_from(listener: socket.socket, scheme: str) -> tuple[socket.socket, str] | None:
    """The next peer's socket and address; None when there is none now."""
    try:
        sock, name = listener.accept()
    except BlockingIOError:
        return None
    except OSError as error:
        log.warning("a peer could not be accepted: %s", error)
        return None
    return sock, address_of(scheme, name)


def dial(scheme: str, address: str, timeout_s: float) -> socket.socket:
    """A connected socket. Raises PeerLost when nobody answers in time."""
    host, _, port = address.removeprefix(f"{scheme}://").rpartition(":")
    if not (address.startswith(f"{scheme}://") and host and port.isdecimal()):
        raise PeerLost(f"{address!r} is not of the form {scheme}://host:port")
    try:
        return socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s)
    except (OSError, OverflowError) as error:
        raise PeerLost(f"{address} does not answer within {timeout_s:g} s: {error}") from error


def dial_member(
    scheme: str, address: str, key: bytes, timeout_s: float
) -> tuple[socket.socket, str, Session]:
    """Dial, and prove to each other that both know the key. Raises PeerLost, naming the fault.

    Returns socket, address and session.
    """
    deadline = monotonic() + timeout_s
    sock = dial(scheme, address, timeout_s)
    try:
        return sock, address, greet(sock, key, deadline)
    except OSError as error:
        sock.close()
        raise PeerLost(f"{address} does not answer within {timeout_s:g} s: {error}") from error
    except PeerLost as error:
        sock.close()
        raise PeerLost(f"{address} {error}") from None


def greet(sock: socket.socket, key: bytes, deadline: float) -> Session:
    """The dialer's handshake over a stream. Raises PeerLost, OSError."""
    dialer = Dialer(key)
    sock.sendall(dialer.hello)
    challenge = b""
    while len(challenge) < CHALLENGE.size:
        sock.settimeout(max(deadline - monotonic(), 1e-3))
        more = sock.recv(CHALLENGE.size - len(challenge))
        if not more:
            raise PeerLost("refused us before it said who it is")
        challenge += more
    proof, session = dialer.take(challenge)
    sock.sendall(proof)
    return session


def address_of(scheme: str, name: tuple[str, int]) -> str:
    """The address that peers dial, from a socket's name."""
    host, port = name[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def advertised(address: str, host: str) -> str:
    """The address with another host in it, where it has one; as it is for an empty ``host``."""
    scheme, _, rest = address.partition("://")
    port = rest.rpartition(":")[2]
    if not host or not port.isdecimal() or ":" not in rest:
        return address
    return address_of(scheme, (host, int(port)))
