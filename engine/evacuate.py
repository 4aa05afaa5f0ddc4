"""The verb ``evacuate``: an instance of a running cluster leaves, and nothing is lost by it."""

import time

from engine.comm.auth import KEY_VARIABLE, read_key
from engine.comm.control import ControlClient
from engine.config import Config
from engine.errors import ConfigError, LendKVError
from engine.protocol import FROM_PLANNER, Evacuate, Members, MembersQuery

ASK_EVERY_S = 1.0
"""again and again: the planner or the step may restart meanwhile"""
PATIENCE_S = 300.0


def evacuate(config: Config, instance: int) -> int:
    """Ask an instance to leave and wait until it has. Raises LendKVError when it does not."""
    cluster = config.cluster
    key = read_key(cluster.key_file)
    if not cluster.join or not key:
        raise ConfigError(
            "evacuate needs a running cluster, as its lendkv serve printed it: give "
            f"cluster.join=HOST:PORT, and its cluster.key_file or {KEY_VARIABLE}"
        )
    planner = ControlClient(f"tcp://{cluster.join}", FROM_PLANNER, key)
    try:
        known = _members(planner, cluster.start_s)
        if known is None:
            raise ConfigError(f"no planner answers at cluster.join={cluster.join}")
        if instance not in known:
            there = ", ".join(map(str, sorted(known))) or "none"
            raise ConfigError(f"instance {instance} is not a member; members are: {there}")
        print(f"lendkv: instance {instance} is asked to leave", flush=True)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            planner.send(Evacuate(instance))
            time.sleep(ASK_EVERY_S)
            known = _members(planner, ASK_EVERY_S)
            if known is not None and instance not in known:
                print(f"lendkv: instance {instance} has left", flush=True)
                return 0
    finally:
        planner.close()
    raise LendKVError(
        f"instance {instance} is still there after {PATIENCE_S:g} s; the others have too little "
        "room for what it runs, or it does not answer"
    )


def _members(planner: ControlClient, timeout_s: float) -> set[int] | None:
    """Numbers of the living instances; None when nobody answers."""
    planner.receive(0.0)  # older answers
    planner.send(MembersQuery())
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        for message in planner.receive(left_s):
            if isinstance(message, Members):
                return {member.instance for member in message.members}
    return None
