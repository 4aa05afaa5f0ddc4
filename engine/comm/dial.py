"""Dial: a connection under way in a thread of its own, so that nobody waits for a frozen peer."""

import threading

from engine.comm.base import Channel, Transport
from engine.errors import PeerLost


class Dial:
    """``Transport.connect`` beside whatever its caller goes on with."""

    def __init__(self, transport: Transport, address: str, timeout_s: float) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._abandoned = False
        self._channel: Channel | None = None
        self._fault = ""
        arguments = (transport, address, timeout_s)
        threading.Thread(target=self._run, args=arguments, name="dial", daemon=True).start()

    def has_ended(self, timeout_s: float = 0.0) -> bool:
        """Whether ``result`` has something to give or to raise by then."""
        return self._ended.wait(timeout_s)

    def result(self) -> Channel:
        """The channel; only after ``has_ended``. Raises PeerLost when there is none."""
        if self._channel is None:
            raise PeerLost(self._fault)
        return self._channel

    def abandon(self) -> None:
        """Nobody wants it any more: what it comes to is closed."""
        with self._lock:
            self._abandoned = True
            if self._channel is not None:
                self._channel.close()

    def _run(self, transport: Transport, address: str, timeout_s: float) -> None:
        try:
            channel = transport.connect(address, timeout_s)
        except PeerLost as error:
            self._fault = str(error)
        else:
            with self._lock:
                self._channel = channel
                if self._abandoned:
                    channel.close()
        self._ended.set()
