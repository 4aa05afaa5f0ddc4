"""Recorder: writes down each input of a machine before the machine acts on it."""

import functools
from pathlib import Path
from typing import Any

from engine.errors import LendKVError
from engine.events.header import Header
from engine.events.log import HASH, EventLog
from engine.events.state_hash import StateHash

HASH_EVERY = 64
"""inputs; the first ones sooner, so that a short life is compared as well"""


def record(machine: Any, header: Header, path: Path) -> EventLog:
    """From now on; nothing was said to the machine before. ConfigError when there is no file."""
    log = EventLog(path, header)
    recorder = _Recorder(machine, header, log)
    for name in header.INPUTS:
        setattr(machine, name, functools.partial(recorder.hear, name, getattr(machine, name)))
    return log


class _Recorder:
    def __init__(self, machine: Any, header: Header, log: EventLog) -> None:
        self._machine = machine
        self._header = header
        self._log = log
        self._hash = StateHash(machine, header)
        self._num_heard = 0
        self._is_inside = False
        self._asked: set[tuple[Any, ...]] = set()
        """questions since the last input that may have changed something"""

    def hear(self, name: str, method: Any, *arguments: Any) -> Any:
        if self._is_inside or not self._is_new(name, arguments):
            return method(*arguments)
        made = self._header.MADE
        self._log.write(name, [None if isinstance(one, made) else one for one in arguments])
        self._is_inside = True  # what it says to itself comes again by itself
        try:
            answer = self._hash.call(method, arguments)
        except LendKVError:
            self._count()
            raise
        finally:
            self._is_inside = False
        self._count()
        return answer

    def _is_new(self, name: str, arguments: tuple[Any, ...]) -> bool:
        if name in self._header.QUESTIONS:
            question = (name, *arguments[:-1])
            if question in self._asked:
                return False
            self._asked.add(question)
            return True
        if not self._header.matters(self._machine, name, arguments):
            return False
        self._asked.clear()
        return True

    def _count(self) -> None:
        self._num_heard += 1
        is_early = self._num_heard & (self._num_heard - 1) == 0  # 1, 2, 4, 8 ...
        if is_early or self._num_heard % HASH_EVERY == 0:
            self._log.write(HASH, [self._hash.now()])
