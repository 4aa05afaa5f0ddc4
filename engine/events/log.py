"""EventLog: the file. Knows frames; what is in them is the header's matter.

Frames of msgpack behind their length: a header, then ``[input, arguments]``, and every now and
then ``["hash", [state]]``. A log whose writer was killed may end in the middle of a frame.
"""

import logging
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import ConfigError
from engine.events.header import Header
from engine.protocol import VERSION

log = logging.getLogger(__name__)

HASH = "hash"


class EventLog:
    """Appends frames to a new file. Raises ConfigError when there can be none."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # unbuffered: what was written outlives this process, however it ends
            self._file = path.open("xb", buffering=0)
        except OSError as error:
            raise ConfigError(
                f"cluster.event_log: {path} cannot be made ({error.strerror}); "
                "give a folder that can be written"
            ) from error
        self._encoder = msgspec.msgpack.Encoder()
        self._append(header)

    def write(self, name: str, arguments: Sequence[Any]) -> None:
        if not self._file.closed:
            self._append([name, arguments])

    def close(self) -> None:
        self._file.close()

    def _append(self, frame: Any) -> None:
        data = self._encoder.encode(frame)
        try:
            written = self._file.write(struct.pack("<I", len(data)) + data)
            reason = "" if written == 4 + len(data) else "the disk is full"
        except OSError as error:
            reason = error.strerror or str(error)
        if reason:  # the machine does its work without a log
            log.warning("cluster.event_log: %s ends here: %s", self.path, reason)
            self._file.close()


def read(path: str, kinds: Any) -> tuple[Header, Iterator[tuple[str, list[Any]]]]:
    """The header, one of these kinds, and what follows. ConfigError when it is no such log."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"simulate: replay={path}: {error.strerror}") from error
    frames = _frames(data)
    first = next(frames, b"")
    try:
        version = msgspec.msgpack.decode(first, type=_Opening).version
        if version != VERSION:
            raise ConfigError(
                f"simulate: replay={path} was written by protocol {version}; this is {VERSION}"
            )
        header: Header = msgspec.msgpack.decode(first, type=kinds)
    except (msgspec.DecodeError, ValueError) as error:
        raise no_log(path, error) from error
    return header, _events(path, frames)


def no_log(path: str, error: Exception) -> ConfigError:
    return ConfigError(f"simulate: replay={path} is no event log: {error}")


class _Opening(msgspec.Struct):
    """What all headers have, whatever else an older one lacks."""

    version: int


def _events(path: str, frames: Iterator[bytes]) -> Iterator[tuple[str, list[Any]]]:
    decoder = msgspec.msgpack.Decoder(tuple[str, list[Any]])
    for frame in frames:
        try:
            event = decoder.decode(frame)
        except (msgspec.DecodeError, ValueError) as error:
            raise no_log(path, error) from error
        yield event


def _frames(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 4 <= len(data):
        [size] = struct.unpack_from("<I", data, at)
        if at + 4 + size > len(data):
            return  # the writer was killed here
        yield data[at + 4 : at + 4 + size]
        at += 4 + size
