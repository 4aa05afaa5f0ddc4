"""SimPlanner and SimGateway: the planner's and the gateway's processes around the real machines."""

from collections.abc import Callable

from engine import protocol as p
from engine.core import Request
from engine.scheduler.base import Placement
from engine.scheduler.performance import Performance
from engine.scheduler.planner import Planner
from engine.scheduler.request_table import RequestTable
from engine.sim.truth import answer_to, layout_of
from engine.sim.world import Process, World, kind_of

PLAN_S = 0.1
MEMBERS_S = 0.1


class SimPlanner(Process):
    """Soft state only: a new one knows nothing."""

    def __init__(
        self,
        world: World,
        placement: Placement,
        tell: Callable[[int, p.Message], None],
    ) -> None:
        super().__init__(world, "planner")
        self._placement = placement
        self._tell = tell

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
            num_first=self.world.config.instances,
            now=self.clock(),
        )
        self.every(PLAN_S, self._tick)

    def take(self, message: p.Message, answer_to: Callable[[p.Message], None]) -> None:
        asker = b"asker"
        if isinstance(message, p.Heartbeat | p.Load | p.Register):
            asker = str(message.instance).encode()
        for to, said in self.planner.handle(asker, message, self.clock()):
            if to == asker:
                answer_to(said)
            else:
                self._tell(int(to), said)

    def _tick(self) -> None:
        for to, advice in self.planner.tick(self.clock()):
            self.world.notes[f"advised_{kind_of(advice)}"] += 1
            self._tell(int(to), advice)


class SimGateway(Process):
    """Its journal outlives it: requests and the tokens that came."""

    def __init__(
        self,
        world: World,
        send: Callable[[str, p.Message, Request | None], None],
        ask_members: Callable[[], None],
    ) -> None:
        super().__init__(world, "gateway")
        self._send = send
        self._ask_members = ask_members
        self._journal: dict[str, tuple[Request, list[int], str, str]] = {}

    def start(self) -> None:
        super().start()
        tokens = self.world.config.block_tokens
        self.table = RequestTable(block_tokens=tokens, keep_s=1e9, life=str(self.life))
        now = self.clock()
        for request, token_ids, reason, error in self._journal.values():
            if reason or error:
                self.table.keep(request, now, token_ids, finish_reason=reason, error=error)
            else:
                self.table.add(request, now, token_ids)
        self.every(MEMBERS_S, self._ask_members)
        self._push()

    def submit(self, request: Request) -> None:
        if not self.is_alive:  # the client tries again
            self.world.at(self.world.now + 0.05, lambda: self.submit(request))
            return
        self._journal[request.request_id] = (request, [], "", "")
        self.table.add(request, self.clock())
        self._push()

    def cancel(self) -> None:
        """A client goes away."""
        if self.unfinished:
            name = self.world.chance.choice(self.unfinished)
            self.table.cancel(name, self.clock())
            self._check(name)
            self._push()

    def on_members(self, members: list[p.Member]) -> None:
        self.table.on_members(members, self.clock())
        self._push()

    def on_message(self, message: p.Message) -> None:
        self.table.on_message(message, self.clock())
        for name in self.table.changed:
            self._check(name)
        self.table.changed.clear()
        self._push()

    @property
    def unfinished(self) -> list[str]:
        return [name for name, (_, _, reason, error) in self._journal.items() if not reason + error]

    def has_answered(self, wanted: int) -> bool:
        """So many requests came, and each is at its end."""
        return len(self._journal) == wanted and all(
            reason or error for _, _, reason, error in self._journal.values()
        )

    def _check(self, name: str) -> None:
        """A client sees a prefix of its answer, always, and the whole of it at the end."""
        entry = self.table.entries[name]
        wanted, got = answer_to(entry.request), tuple(entry.token_ids)
        is_over = entry.finish_reason not in ("", "abort")
        if got != wanted[: len(got)] or (is_over and got != wanted):
            self.world.violation(f"request {name} got {len(got)} tokens that are not its own")
        if entry.error:
            self.world.violation(f"request {name} failed: {entry.error}")
        self._journal[name] = (entry.request, list(got), entry.finish_reason, entry.error)

    def _push(self) -> None:
        for effect in self.table.take_effects():
            request = None
            if isinstance(effect.message, p.Submit):
                sent = effect.message
                request = Request(request_id=sent.request_id, prompt_ids=tuple(sent.prompt_ids))
            self._send(effect.address, effect.message, request)
