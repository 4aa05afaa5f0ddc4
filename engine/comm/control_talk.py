"""How control messages show that they come from a member of the cluster. No I/O.

Every message is two frames, a head and the message. The head holds both sides' nonces, a number
that counts up, and a tag over all of it under the session's key (auth.py):

    client: hello          server: challenge, with a nonce for this connection
    client: data ...       server: data ... or, to a tag that does not fit, refused

A server that knows nothing of a connection, because one of the two is new, answers with a
challenge, and the client begins anew; what it had sent is lost. The numbers of hello and challenge
are the versions of the protocol that the two speak, as is that of a refusal because of them. So
nothing can be made up, and
nothing said before can be said again: not on its connection, where numbers only grow, nor on any
other, where the nonces differ.
"""

import struct
from dataclasses import dataclass

from engine.comm.auth import NONCE_BYTES, TAG_BYTES, Session
from engine.errors import PeerLost

HEAD = struct.Struct(f"<c{NONCE_BYTES}s{NONCE_BYTES}sQ{TAG_BYTES}s")
"""kind, client's nonce, server's nonce, number, tag"""
HELLO, CHALLENGE, DATA, REFUSED = b"H", b"C", b"D", b"R"
NO_NONCE, NO_TAG = bytes(NONCE_BYTES), bytes(TAG_BYTES)


@dataclass(slots=True)
class Talk:
    """What one end knows of a connection."""

    server_nonce: bytes
    client_nonce: bytes = NO_NONCE
    session: Session | None = None
    num_sent: int = 0
    last_received: int = 0

    def wrap(self, payload: bytes) -> list[bytes]:
        assert self.session is not None
        self.num_sent += 1
        fields = (DATA, self.client_nonce, self.server_nonce, self.num_sent)
        bare = HEAD.pack(*fields, NO_TAG)
        return [HEAD.pack(*fields, self.session.sends.tag(bare, payload)), payload]

    def check(self, session: Session, head: bytes, payload: bytes) -> None:
        """Raises PeerLost unless the message is the peer's, and new."""
        *fields, tag = HEAD.unpack(head)
        if not session.receives.fits(tag, HEAD.pack(*fields, NO_TAG), payload):
            raise PeerLost("it is not from a member of this cluster: its tag is wrong")
        if fields[3] <= self.last_received:
            raise PeerLost(f"number {fields[3]} came again, after {self.last_received}")
        self.last_received = fields[3]
