"""StateHash: of all that a machine has answered so far, and of its state as it stands."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from engine.errors import LendKVError
from engine.events.header import Header


class StateHash:
    def __init__(self, machine: Any, header: Header) -> None:
        self._machine = machine
        self._header = header
        self._answers = hashlib.blake2b(digest_size=16)
        # a type that is new here must not stop a machine that runs well
        self._encoder = msgspec.msgpack.Encoder(enc_hook=repr)

    def call(self, method: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """Calls a method of the machine; an error of ours is an answer like any other."""
        try:
            answer = method(*arguments)
        except LendKVError as error:
            self._answers.update(repr(error).encode())
            raise
        if answer is not None:
            self._answers.update(self._encoder.encode(answer))
        return answer

    def now(self) -> bytes:
        state = self._encoder.encode(self._header.state_of(self._machine))
        return hashlib.blake2b(self._answers.digest() + state, digest_size=16).digest()
