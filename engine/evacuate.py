"""The verb ``evacuate``: an instance of a running cluster leaves, and nothing is lost by it."""

from engine.config import Config
from engine.errors import LendKVError
from engine.operating import Operator
from engine.protocol import Evacuate

PATIENCE_S = 300.0


def evacuate(config: Config, instance: int) -> int:
    """Ask an instance to leave and wait until it has. Raises LendKVError when it does not."""
    with Operator.of(config, "evacuate") as operator:
        operator.require_member(config, instance)
        print(f"lendkv: instance {instance} is asked to leave", flush=True)
        if operator.ask(Evacuate(instance), lambda known: instance not in known, PATIENCE_S):
            print(f"lendkv: instance {instance} has left", flush=True)
            return 0
    raise LendKVError(
        f"instance {instance} is still there after {PATIENCE_S:g} s; the others have too little "
        "room for what it runs, or it does not answer"
    )
