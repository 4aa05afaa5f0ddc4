"""Roll: the members as a gateway sees them, steady while a new planner hears of them. No I/O."""

from collections.abc import Sequence

from engine.protocol import Member

AWAY_S = 2.0
"""steps tell a new planner of themselves once a second; who is silent for so long is gone"""


class Roll:
    """``call`` with what the planner says: who was there a moment ago still is, unless replaced.

    A restarted planner first knows nobody. To run every request again because of it would cost all
    clients a prefill.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Member, float]] = {}

    def call(self, members: Sequence[Member], now: float) -> list[Member]:
        """The members to believe in; a new epoch or address, or a leave, is believed at once."""
        heard = {member.instance: member for member in members}
        for member in members:
            if member.step_address:
                self._seen[member.instance] = (member, now)
        for instance, (last, at) in list(self._seen.items()):
            new = heard.get(instance)
            if new is not None and (new.step_address or new.epoch != last.epoch or new.draining):
                continue
            if now - at < AWAY_S and not last.draining:
                heard[instance] = last
            else:
                del self._seen[instance]
        return [heard[instance] for instance in sorted(heard)]
