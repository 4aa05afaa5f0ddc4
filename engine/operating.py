"""An operator's talk with a running cluster's planner, for the verbs evacuate and lending."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.comm.auth import KEY_VARIABLE, read_key
from engine.comm.control import ControlClient
from engine.config import Config
from engine.errors import ConfigError
from engine.protocol import FROM_PLANNER, Member, Members, MembersQuery, Message

ANSWER_S = 20.0
"""a planner that restarts is back by then"""
ASK_EVERY_S = 1.0
"""again and again: the planner or the instance may restart meanwhile"""


class Operator:
    """Asks who is there, and for something until it is done."""

    def __init__(self, planner: ControlClient) -> None:
        self._planner = planner

    @staticmethod
    @contextmanager
    def of(config: Config, verb: str) -> Iterator["Operator"]:
        """While it is connected. Raises ConfigError without an address and key."""
        cluster = config.cluster
        key = read_key(cluster.key_file)
        if not cluster.join or not key:
            raise ConfigError(
                f"{verb} needs a running cluster, as its lendkv serve printed it: give "
                f"cluster.join=HOST:PORT, and its cluster.key_file or {KEY_VARIABLE}"
            )
        planner = ControlClient(f"tcp://{cluster.join}", FROM_PLANNER, key)
        try:
            yield Operator(planner)
        finally:
            planner.close()

    def members(self, timeout_s: float) -> dict[int, Member] | None:
        """The living instances by number; None when nobody answers."""
        self._planner.receive(0.0)  # older answers
        self._planner.send(MembersQuery())
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            for message in self._planner.receive(left_s):
                if isinstance(message, Members):
                    return {member.instance: member for member in message.members}
        return None

    def require_member(self, config: Config, instance: int | None) -> dict[int, Member]:
        """The members, the instance among them; raises ConfigError."""
        known = self.members(ANSWER_S)
        if known is None:
            raise ConfigError(
                f"no planner answers at cluster.join={config.cluster.join} within {ANSWER_S:g} s: "
                "give the address that its lendkv serve printed, and see whether that still runs"
            )
        if instance is not None and instance not in known:
            there = ", ".join(map(str, sorted(known))) or "none"
            raise ConfigError(f"instance {instance} is not a member; members are: {there}")
        return known

    def ask(
        self, wish: Message, is_done: Callable[[dict[int, Member]], bool], patience_s: float
    ) -> bool:
        """Until the members show that it is done; False when that takes too long."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            self._planner.send(wish)
            time.sleep(ASK_EVERY_S)
            known = self.members(ASK_EVERY_S)
            if known is not None and is_done(known):
                return True
        return False
