"""The verb ``lending``: shows what instances lend, and stops one from lending, or lets it again."""

from engine.config import Config
from engine.errors import LendKVError
from engine.operating import Operator
from engine.protocol import Lend, Member

PATIENCE_S = 60.0


def lending(config: Config, instance: int | None, on: bool | None) -> int:
    """Without an instance only shows. Raises LendKVError when blocks do not come home."""
    with Operator.of(config, "lending") as operator:
        known = operator.require_member(config, instance)
        if instance is None or on is None:
            for number in sorted(known):
                print(f"lendkv: {_state(known[number])}", flush=True)
            return 0

        def is_done(members: dict[int, Member]) -> bool:
            member = members.get(instance)
            if member is None:
                return False
            known.update(members)
            return member.lends == on and (on or not member.num_lent)

        done = operator.ask(Lend(instance, on), is_done, PATIENCE_S)
        print(f"lendkv: {_state(known[instance])}", flush=True)
        if done:
            return 0
    raise LendKVError(
        f"instance {instance} has not done so within {PATIENCE_S:g} s: it does not answer, or "
        "restarts; look at its stderr, and ask again"
    )


def _state(member: Member) -> str:
    now = f"{member.num_lent} of {member.num_blocks} blocks are lent"
    if not member.lends:
        return f"instance {member.instance} lends nothing; {now}"
    return f"instance {member.instance} lends; {now}, {member.num_lendable} more may be"
