"""SimPlanner and SimGateway: the planner's and the gateway's processes around the real machines."""

from collections import deque
from collections.abc import Callable

from engine import protocol as p
from engine.core import Request
from engine.scheduler.base import Placement
from engine.scheduler.directory import MemberList
from engine.scheduler.kept import Kept
from engine.scheduler.performance import Performance
from engine.scheduler.planner import Planner
from engine.scheduler.request_table import RequestTable
from engine.sim.post import Party
from engine.sim.truth import answer_to, layout_of
from engine.sim.world import Process, World, kind_of

PLAN_S = 0.1
MEMBERS_S = 0.1
KEEP_S, MAX_KEPT = 20.0, 64
"""how long an answer is kept, and how many outlive the gateway"""


class SimPlanner(Process):
    """Soft state: a new one knows nothing but which number comes next."""

    def __init__(
        self,
        world: World,
        placement: Placement,
        tell: Callable[[bytes, p.Message], None],
    ) -> None:
        super().__init__(world, "planner")
        self._placement = placement
        self._tell = tell
        self._num_known = world.config.instances
        """its supervisor remembers what number comes next"""

    def start(self) -> None:
        super().start()
        tokens = self.world.config.block_tokens
        self.planner = Planner(
            Planner.Config(stale_s=1.0, plan_s=4 * PLAN_S),
            placement=self._placement,
            cost=Performance(),
            block_tokens=tokens,
            cluster="sim",
            layout=layout_of(tokens).fingerprint,
            num_first=self._num_known,
            now=self.clock(),
        )
        self.every(PLAN_S, self._tick)

    def take(self, peer: bytes, message: p.Message) -> None:
        said_to = self.planner.handle(peer, message, self.clock())
        self._num_known = self.planner.next_number
        for to, said in said_to:
            self._tell(to, said)

    def _tick(self) -> None:
        for to, advice in self.planner.tick(self.clock()):
            self.world.notes[f"advised_{kind_of(advice)}"] += 1
            self._tell(to, advice)


class SimGateway(Party):
    """Its journal outlives it: requests, the tokens that came, and the latest whole answers."""

    def __init__(
        self,
        world: World,
        *,
        send: Callable[[str, p.Message], None],
        ask: Callable[[Party, p.Message], None],
    ) -> None:
        super().__init__(world, "gateway", ask)
        self._send = send
        self._journal: dict[str, tuple[Request, list[int]]] = {}
        self._answered: deque[tuple[Request, list[int], str, str]] = deque(maxlen=MAX_KEPT)
        self.num_answered = 0

    def start(self) -> None:
        super().start()
        tokens = self.world.config.block_tokens
        self._members = MemberList()
        self.table = RequestTable(block_tokens=tokens, kept=Kept(KEEP_S), life=str(self.life))
        now = self.clock()
        for request, token_ids, reason, error in self._answered:
            self.table.keep(request, now, token_ids, finish_reason=reason, error=error)
        for request, token_ids in self._journal.values():
            self.table.add(request, now, token_ids)
        self.every(MEMBERS_S, lambda: self.to_planner(self._members.query()))
        self._push()

    def submit(self, request: Request) -> None:
        if not self.is_alive:  # the client tries again
            self.world.at(self.world.now + 0.05, lambda: self.submit(request))
            return
        self._journal[request.request_id] = (request, [])
        self.table.add(request, self.clock())
        self._push()

    def cancel(self) -> None:
        """A client goes away."""
        if self.unfinished:
            self._cancel(self.world.chance.choice(self.unfinished))

    def cancel_at(self, instance: int) -> None:
        """All clients of an instance go away."""
        for name in self.unfinished:
            if self.table.entries[name].instance == instance:
                self._cancel(name)

    def _cancel(self, name: str) -> None:
        self.table.cancel(name, self.clock())
        self._check(name)
        self._push()

    def on_planner(self, message: p.Message) -> None:
        if isinstance(message, p.Members):
            self.table.on_members(self._members.heard(message), self.clock())
            self.table.forget(self.clock())
            self._push()

    def on_message(self, message: p.Message) -> None:
        self.table.on_message(message, self.clock())
        for name in self.table.changed:
            self._check(name)
        self.table.changed.clear()
        self._push()

    @property
    def unfinished(self) -> list[str]:
        return list(self._journal)

    def _check(self, name: str) -> None:
        """A client sees a prefix of its answer, always, and the whole of it at the end."""
        if name not in self._journal:
            return  # only its report has come
        entry = self.table.entries[name]
        wanted, got = answer_to(entry.request), tuple(entry.token_ids)
        is_over = entry.finish_reason not in ("", "abort")
        if got != wanted[: len(got)] or (is_over and got != wanted):
            self.world.violation(f"request {name} got {len(got)} tokens that are not its own")
        if entry.error:
            self.world.violation(f"request {name} failed: {entry.error}")
        self._journal[name] = (entry.request, list(got))
        if entry.done:
            del self._journal[name]
            self._answered.append((entry.request, list(got), entry.finish_reason, entry.error))
            self.num_answered += 1

    def _push(self) -> None:
        for effect in self.table.take_effects():
            self._send(effect.address, effect.message)
