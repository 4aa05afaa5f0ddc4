"""Header: what a machine is made of, which inputs it hears, and what counts of its state."""

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from engine import protocol
from engine.protocol import VERSION, Message


class Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """A kind of machine is a subclass with a ``tag``; its fields make the machine anew."""

    INPUTS: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """method -> types of its arguments"""
    QUESTIONS: ClassVar[frozenset[str]] = frozenset()
    """inputs that change nothing; all arguments but the last, a time, say what is asked"""
    MADE: ClassVar[tuple[type, ...]] = ()
    """results that come back as arguments: always the last one, which is not written"""

    instance: int = 0
    version: int = VERSION

    @property
    def name(self) -> str:
        return f"{self.__struct_config__.tag} {self.instance}"

    def make(self) -> Any:
        """The machine as it was at its start."""
        raise NotImplementedError

    def state_of(self, machine: Any) -> Any:
        """What msgpack can write, and is not made new for nothing: it is asked again and again."""
        raise NotImplementedError

    def matters(self, machine: Any, name: str, arguments: Sequence[Any]) -> bool:
        """False for an input that is certain to do nothing now."""
        return True

    def arguments(self, name: str, raw: Sequence[Any], made: Any) -> list[Any]:
        """As the machine heard them. Raises ValueError when these are none of its arguments."""
        if name not in self.INPUTS:
            raise ValueError(f"a {self.name} hears no {name!r}")
        return [
            made if kind in self.MADE else msgspec.convert(one, _written_as(kind))
            for one, kind in zip(raw, self.INPUTS[name], strict=True)
        ]


def _written_as(kind: Any) -> Any:
    return _any_message() if kind is Message else kind


@functools.cache
def _any_message() -> Any:
    """The union of all messages: the tag says which one it is."""
    kinds = [one for one in vars(protocol).values() if _is_message(one)]
    return functools.reduce(operator.or_, kinds)


def _is_message(one: Any) -> bool:
    return isinstance(one, type) and issubclass(one, Message) and one is not Message
