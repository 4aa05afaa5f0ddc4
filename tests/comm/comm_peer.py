"""A peer in a process of its own: ``comm_peer.py serve|dial TRANSPORT JSON_OPTIONS [ADDRESS]``.

Echoes every message until its standard input ends. ``serve`` prints its address first; a message
with the head ``print`` is printed instead of echoed.
"""

import json
import sys

from engine.comm import TRANSPORTS
from engine.comm.base import Channel, Transport
from engine.errors import PeerLost


def echo(transport: Transport, channels: list[Channel]) -> None:
    while True:
        for channel in transport.wait(channels, 1.0, also=[0]):
            try:
                while (message := channel.receive()) is not None:
                    if message[0] == b"print":
                        while channel.unsent_bytes:  # else a killed peer has not said it
                            transport.wait([], 0.001)
                        print(bytes(message[1]).decode(), flush=True)
                    else:
                        channel.send(message[0], bytes(message[1]))
            except PeerLost:
                channels.remove(channel)
                channel.close()
        channels += transport.accept()


def main(how: str, name: str, options: str, *address: str) -> None:
    kind = TRANSPORTS.load(name)
    transport = kind(kind.Config(**json.loads(options)))
    if how == "serve":
        print(transport.listen(), flush=True)
        echo(transport, [])
    else:
        echo(transport, [transport.connect(*address, 20.0)])


main(*sys.argv[1:])
