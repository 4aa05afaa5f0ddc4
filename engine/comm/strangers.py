"""Peers that have connected to a listener and not proved yet that they belong to the cluster."""

import logging
import socket
from dataclasses import dataclass
from time import monotonic

from engine.comm.auth import Listener, Session
from engine.comm.sockets import accept_from
from engine.errors import PeerLost

log = logging.getLogger(__name__)

MAX_STRANGERS = 64
"""more push out the oldest"""
GREETING_S = 10.0
"""how long one may take"""


@dataclass(slots=True)
class _Stranger:
    sock: socket.socket
    peer: str
    handshake: Listener
    deadline: float


class Strangers:
    """Reads no byte more than the handshake's, so what follows it is left to the channel."""

    def __init__(self, scheme: str, key: bytes) -> None:
        self._scheme = scheme
        self._key = key
        self._waiting: list[_Stranger] = []

    def filenos(self) -> list[int]:
        return [stranger.sock.fileno() for stranger in self._waiting]

    def meet(self, listener: socket.socket) -> list[tuple[socket.socket, str, Session]]:
        """Take in who knocks; returns those that have proved themselves. Never blocks."""
        now = monotonic()
        while (peer := accept_from(listener, self._scheme)) is not None:
            sock, address = peer
            sock.setblocking(False)
            self._waiting.append(_Stranger(sock, address, Listener(self._key), now + GREETING_S))
            if len(self._waiting) > MAX_STRANGERS:
                self._waiting.pop(0).sock.close()
        members: list[tuple[socket.socket, str, Session]] = []
        waiting, self._waiting = self._waiting, []
        for stranger in waiting:
            try:
                session = _hear(stranger)
                if session is not None:
                    members.append((stranger.sock, stranger.peer, session))
                elif now < stranger.deadline:
                    self._waiting.append(stranger)
                else:
                    raise PeerLost("did not say who it is in time")
            except (PeerLost, OSError) as error:
                log.warning("%s was turned away: it %s", stranger.peer, error)
                stranger.sock.close()
        return members

    def close(self) -> None:
        for stranger in self._waiting:
            stranger.sock.close()
        self._waiting.clear()


def _hear(stranger: _Stranger) -> Session | None:
    """Go on with a handshake as far as bytes have come."""
    handshake = stranger.handshake
    while handshake.session is None:
        try:
            data = stranger.sock.recv(handshake.num_missing)
        except BlockingIOError:
            return None
        if not data:
            raise PeerLost("left before it had said who it is")
        if answer := handshake.take(data):
            stranger.sock.send(answer)  # a few bytes into an empty buffer: never short
    return handshake.session
