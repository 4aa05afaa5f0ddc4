"""Who belongs to the cluster: its key, proofs of knowing it, and tags on what is sent. No I/O.

Both ends of a connection prove that they know the key by hashing two fresh nonces with it, and
derive two session keys from the same nonces, one for each direction:

    dialer -> listener   magic, dialer's nonce
    listener -> dialer   listener's nonce, proof over both
    dialer -> listener   proof over both

A tag is a blake2b of 16 bytes, keyed with the session's key; what it covers holds a number that
counts up. So nothing can be made up, changed, or said again, on this connection or on another.
The key itself never travels, and what is sent is not secret.
"""

import hashlib
import hmac
import os
import secrets
import struct
from pathlib import Path

from engine.errors import ConfigError, PeerLost

KEY_VARIABLE = "LENDKV_KEY"
MIN_KEY_BYTES = 16
TAG_BYTES = 16
NONCE_BYTES = 16
MAGIC = b"LKVAUTH1"
HELLO = struct.Struct(f"<8s{NONCE_BYTES}s")
CHALLENGE = struct.Struct(f"<{NONCE_BYTES}s{TAG_BYTES}s")
OTHER_KEY = (
    "has another cluster key: give both sides the same cluster.key_file, or the same "
    f"{KEY_VARIABLE} in the environment"
)


def read_key(key_file: str) -> bytes:
    """The cluster's key from its file, else from LENDKV_KEY; empty when neither is given.

    Raises ConfigError when it cannot be read or is too short to keep anybody out.
    """
    if key_file:
        source = f"cluster.key_file={key_file}"
        try:
            text = Path(key_file).expanduser().read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"{source} cannot be read: {error.strerror}") from error
    else:
        source = KEY_VARIABLE
        text = os.environ.get(KEY_VARIABLE, "").encode().strip()
        if not text:
            return b""
    if len(text) < MIN_KEY_BYTES:
        raise ConfigError(
            f"{source} holds a key of {len(text)} bytes; at least {MIN_KEY_BYTES} are needed: "
            "make one with 'openssl rand -hex 32'"
        )
    return hashlib.blake2b(text, digest_size=32, person=b"lendkv key").digest()


def random_key() -> bytes:
    return secrets.token_bytes(32)


def new_nonce() -> bytes:
    return secrets.token_bytes(NONCE_BYTES)


class Seal:
    """Makes and checks tags with one key."""

    def __init__(self, key: bytes, purpose: bytes, *nonces: bytes) -> None:
        """``purpose``: at most 16 bytes; equal keys for different purposes have nothing in common.

        An empty key is one that everybody knows.
        """
        derived = hashlib.blake2b(b"".join(nonces), key=key, person=purpose, digest_size=32)
        self.key = derived.digest()
        """for who makes the same tags elsewhere (native/seal.h)"""
        self._keyed = hashlib.blake2b(key=self.key, digest_size=TAG_BYTES)

    def tag(self, *parts: bytes | memoryview) -> bytes:
        state = self._keyed.copy()
        for part in parts:
            state.update(part)
        return state.digest()

    def fits(self, tag: bytes | memoryview, *parts: bytes | memoryview) -> bool:
        return hmac.compare_digest(tag, self.tag(*parts))


class Session:
    """The two seals of a connection, as one end sees them."""

    def __init__(self, key: bytes, dialer: bytes, listener: bytes, *, dials: bool) -> None:
        out, into = (b"to listener", b"to dialer") if dials else (b"to dialer", b"to listener")
        self.sends = Seal(key, out, dialer, listener)
        self.receives = Seal(key, into, dialer, listener)


class Dialer:
    """The handshake of who connects: send ``hello``, ``take`` the answer, send the proof."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._nonce = new_nonce()
        self.hello = HELLO.pack(MAGIC, self._nonce)

    def take(self, challenge: bytes) -> tuple[bytes, Session]:
        """The proof to send, and the session. Raises PeerLost when the listener cannot prove."""
        if len(challenge) != CHALLENGE.size:
            raise PeerLost(f"a challenge of {len(challenge)} bytes instead of {CHALLENGE.size}")
        nonce, proof = CHALLENGE.unpack(challenge)
        if not Seal(self._key, b"listener", self._nonce, nonce).fits(proof):
            raise PeerLost(OTHER_KEY)
        session = Session(self._key, self._nonce, nonce, dials=True)
        return Seal(self._key, b"dialer", self._nonce, nonce).tag(), session


class Listener:
    """The handshake of who is connected to: a hello, then a proof, in pieces as they come."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._nonce = new_nonce()
        self._dialer = b""
        self._data = b""
        self.session: Session | None = None
        """set once the dialer has proved that it knows the key"""

    @property
    def num_missing(self) -> int:
        """Bytes to read before anything else can happen."""
        return (TAG_BYTES if self._dialer else HELLO.size) - len(self._data)

    def take(self, data: bytes) -> bytes:
        """What to send, perhaps nothing. Raises PeerLost for a stranger."""
        self._data += data
        if self.num_missing > 0:
            return b""
        whole, self._data = self._data, b""
        if not self._dialer:
            return self._challenge(whole)
        if not Seal(self._key, b"dialer", self._dialer, self._nonce).fits(whole):
            raise PeerLost(OTHER_KEY)
        self.session = Session(self._key, self._dialer, self._nonce, dials=False)
        return b""

    def _challenge(self, hello: bytes) -> bytes:
        if len(hello) != HELLO.size or hello[: len(MAGIC)] != MAGIC:
            raise PeerLost(f"no hello of a member: {hello[:16]!r}")
        self._dialer = hello[len(MAGIC) :]
        proof = Seal(self._key, b"listener", self._dialer, self._nonce).tag()
        return CHALLENGE.pack(self._nonce, proof)
