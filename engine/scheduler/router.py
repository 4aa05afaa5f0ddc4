"""Router: which instance shall run a request. Pure; it sees the cluster late, like the planner."""

from collections.abc import Mapping, Sequence

from engine.protocol import Member


def route(
    num_tokens: int,
    members: Sequence[Member],
    load: Mapping[int, int],
    block_tokens: int,
    cached: Mapping[int, int],
    max_borrowed: int | None = None,
) -> int | None:
    """The instance for a request of ``num_tokens``; None while no step is ready.

    ``load`` is the tokens that this gateway has under way at each instance: the pools' own numbers
    are late. Instances that can hold the request at home come first, those before others that have
    the room already (frontends do not know of each other's requests), then the least loaded:
    ``cached``, the request's tokens that it is likely to have, are taken off what is under way.
    Whose key may borrow so many blocks only (None: any number) goes where it has to borrow least:
    if it can ever be held anywhere, it is there, however busy that is.
    """
    ready = [member for member in members if member.step_address]
    if not ready:
        return None
    num_blocks = -(-num_tokens // block_tokens)
    num_held = num_tokens // block_tokens + 1  # with the token that comes next

    def cost(member: Member) -> tuple[int, bool, bool, float, int]:
        lack = 0 if max_borrowed is None else max(0, num_held - member.num_blocks)
        under_way = load.get(member.instance, 0) / block_tokens
        room = member.num_blocks - under_way
        spared = cached.get(member.instance, 0) / block_tokens
        share = (under_way - spared) / max(member.num_blocks, 1)
        return (lack, num_blocks > room, num_blocks > member.num_free, share, member.instance)

    return min(ready, key=cost).instance


class SentLoads:
    """The tokens that a gateway has under way at each instance, kept up to date."""

    def __init__(self) -> None:
        self._requests: dict[str, tuple[int, int]] = {}
        """request -> instance, tokens"""
        self.tokens: dict[int, int] = {}
        """by instance"""

    def begin(self, request_id: str, instance: int, num_tokens: int) -> None:
        """It was sent there. Whoever is under way must end first."""
        self._requests[request_id] = instance, num_tokens
        self.tokens[instance] = self.tokens.get(instance, 0) + num_tokens

    def end(self, request_id: str) -> None:
        """It is at no instance any more, if it was at one."""
        instance, num_tokens = self._requests.pop(request_id, (None, 0))
        if instance is not None:
            self.tokens[instance] -= num_tokens
            if not self.tokens[instance]:
                del self.tokens[instance]
