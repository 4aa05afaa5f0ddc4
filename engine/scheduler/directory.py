"""Directory: who is there, told as what has changed since the asker last heard of it. No I/O.

The planner numbers changes by its clock, in microseconds, and remembers nothing of who asks: an
asker brings back the last number that it heard. A restarted planner has not heard of an older
one's numbers, and begins with all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from engine.protocol import Member, Members, MembersQuery


@dataclass(frozen=True, slots=True)
class _Shown:
    member: Member
    number: int
    """of its last change"""
    sketched: int
    """of its sketch's last change, the largest part of it"""


class Directory:
    """The planner's side."""

    def __init__(self) -> None:
        self._shown: dict[int, _Shown] = {}
        self.number = 0
        """of the last change of any"""

    def answer(self, members: Sequence[Member], since: int, now: float) -> Members:
        """To one who heard the changes until ``since``; ``members`` are all that are there now."""
        there = [member.instance for member in members]
        for instance in self._shown.keys() - set(there):  # one that comes back is told anew
            del self._shown[instance]
        for member in members:
            shown = self._shown.get(member.instance)
            if shown is None or (shown.member is not member and shown.member != member):
                self.number = max(self.number + 1, int(now * 1e6))
                is_same = shown is not None and shown.member.sketch == member.sketch
                sketched = shown.sketched if shown is not None and is_same else self.number
                self._shown[member.instance] = _Shown(member, self.number, sketched)
        if since > self.number:
            since = 0
        changed = [
            one.member if one.sketched > since else replace(one.member, sketch=None)
            for one in self._shown.values()
            if one.number > since
        ]
        return Members(changed, there, self.number, since)


class MemberList:
    """The asker's side: ``query`` again and again, and ``heard`` with what is answered."""

    def __init__(self) -> None:
        self._known: dict[int, Member] = {}
        self._number = 0

    def query(self) -> MembersQuery:
        return MembersQuery(self._number)

    def heard(self, said: Members) -> list[Member]:
        """All that are there."""
        if not said.since:  # all; a planner that numbers nothing says no more than that
            self._known, self._number = {one.instance: one for one in said.members}, said.number
        elif said.number >= self._number >= said.since:
            for member in said.members:
                known = self._known.get(member.instance)
                if member.sketch is None and known is not None:
                    member = replace(member, sketch=known.sketch)
                self._known[member.instance] = member
            self._known = {one: self._known[one] for one in said.there if one in self._known}
            self._number = said.number
        return sorted(self._known.values(), key=lambda member: member.instance)
