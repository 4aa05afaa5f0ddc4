"""Cluster: the simulated processes of all members, and the channels between them."""

from itertools import count

from engine import protocol as p
from engine.core import Request, SamplingParams
from engine.scheduler import PLACEMENTS
from engine.scheduler.scheduler import Scheduler
from engine.sim.control import SimGateway, SimPlanner
from engine.sim.joiner import Joiner
from engine.sim.link import NOTICE_S, Link
from engine.sim.pool import SimPool
from engine.sim.post import Party, Post
from engine.sim.step import SimStep
from engine.sim.truth import EOS, layout_of
from engine.sim.world import Process, World

RESTART_S = 0.3
START_S = (0.2, 1.0, 4.0)
"""at most, one by chance: from its number to the first beat of a new pool, and on to its step"""
MAX_POSITIONS = 4096


class Cluster:
    def __init__(self, world: World) -> None:
        self.world = world
        config, chance = world.config, world.chance
        name = chance.choice(config.placements)
        kind = PLACEMENTS.load(name)
        self._placement = kind(kind.Config())
        self._numbers = count(1)
        self.links: list[Link] = []
        self._owners: dict[str, int] = {}
        """request -> the gateway's life in which it was sent"""
        self.post = Post(world, self._dropped)
        self.planner = SimPlanner(world, self._placement, self.post.tell)
        self.gateway = SimGateway(world, send=self._to_step, ask=self.ask)
        self.pools: dict[int, SimPool] = {}
        """the members"""
        self.steps: dict[int, SimStep] = {}
        """of all members but the donors"""
        self.num_guests_joining = 0
        low, *tops = config.pool_blocks
        high = chance.choice(tops)
        for instance in range(config.instances):
            self._add(instance, chance.randint(low, high))
        self.planner.start()
        for instance in range(config.instances):
            self._start(self.pools[instance])
        self.gateway.start()

    # --- members ------------------------------------------------------------------------------

    def join(self, num_blocks: int, *, is_donor: bool = False, is_guest: bool = False) -> None:
        """Somebody asks the planner for a number, and is a member a while later."""
        world, chance = self.world, self.world.chance

        def joined(instance: int) -> None:
            world.at(
                world.now + chance.uniform(0.05, chance.choice(START_S)), lambda: come(instance)
            )

        def come(instance: int) -> None:
            self.num_guests_joining -= is_guest
            world.told(f"{'donor' if is_donor else 'instance'} {instance} has joined")
            if instance in self.pools:
                world.violation(f"two members go by the number {instance}")
                return
            world.notes["joined"] += 1
            world.notes["donors"] += is_donor
            self._add(instance, num_blocks, is_donor=is_donor, is_guest=is_guest)
            self.pools[instance].start()
            until_step = chance.uniform(0.0, chance.choice(START_S))
            world.at(world.now + until_step, lambda: self.start_step(instance))

        self.num_guests_joining += is_guest
        Joiner(world, ask=self.ask, joined=joined).start()

    def kill_step(self, instance: int) -> None:
        """The supervisor starts it again; its channels end with it."""
        step = self.steps.get(instance)
        if step is not None and step.is_alive:
            self._end(step)
            again = self.world.now + self.world.chance.uniform(0.01, RESTART_S)
            self.world.at(again, lambda: self.start_step(instance))

    def kill_pool(self, instance: int) -> None:
        """A dead pool takes its step along; both come back, with new memory."""
        pool = self.pools[instance]
        self._end(pool)
        if instance in self.steps:
            self._end(self.steps[instance])

        def again() -> None:
            if not pool.is_alive:
                self._start(pool)

        self.world.at(self.world.now + RESTART_S, again)

    def kill(self, process: SimPlanner | SimGateway) -> None:
        process.stop()
        self.world.at(self.world.now + RESTART_S, process.start)

    def start_step(self, instance: int) -> None:
        step, pool = self.steps.get(instance), self.pools.get(instance)
        if step and pool and pool.is_alive and not (step.is_alive or pool.is_leaving):
            step.start()

    def _start(self, pool: SimPool) -> None:
        pool.start()
        self.start_step(pool.instance)

    def _step_left(self, step: SimStep) -> None:
        self._end(step)
        step.pool.leave()

    def _left(self, pool: SimPool) -> None:
        """It leaves for good; its number is never used again."""
        self.world.told(f"{pool.name} has left")
        self.world.notes["left"] += 1
        self._end(pool)
        del self.pools[pool.instance]
        step = self.steps.pop(pool.instance, None)
        if step is not None and step.is_alive:
            self._end(step)

    # --- channels -----------------------------------------------------------------------------

    def _connect(self, step: SimStep, instance: int) -> Link | None:
        pool = self.pools.get(instance)
        if pool is None or not pool.is_alive:
            return None
        link = Link(
            self.world,
            next(self._numbers),
            step=step,
            pool=pool,
            to_pool=pool.receive,
            to_step=step.receive,
            lost=self._lost,
            broken=self._broken,
        )
        self.links.append(link)
        return link

    def _lost(self, link: Link) -> None:
        self.links.remove(link)
        pool, step = link.pool, link.step
        pool.after(NOTICE_S, lambda: pool.lost(link))  # type: ignore[attr-defined]
        step.after(NOTICE_S, lambda: step.lost(link))  # type: ignore[attr-defined]

    def _broken(self, link: Link) -> None:
        """A step's channel to its own pool ends with the step only."""
        instance, owner = link.pool.instance, link.step.instance  # type: ignore[attr-defined]
        if instance == owner:
            self.kill_step(owner)
        else:
            link.cut()

    def _end(self, process: Process) -> None:
        process.stop()
        for link in [one for one in self.links if process in (one.step, one.pool)]:
            link.cut()

    # --- control messages ---------------------------------------------------------------------

    def ask(self, party: Party | None, message: p.Message) -> None:
        """To the planner; from nobody: an operator's wish."""
        name = self.post.name_of(party) if party is not None else b"operator"
        self.post.send(self.planner, message, lambda: self.planner.take(name, message), lossy=True)

    def tell(self, party: Party, message: p.Message) -> None:
        """As if the planner said so."""
        self.post.tell(self.post.name_of(party), message)

    def _dropped(self, receiver: Process) -> None:
        """A connection broke that a step's client relies on: what it was told dies with it."""
        if isinstance(receiver, SimStep):
            self.kill_step(receiver.instance)

    def _to_step(self, address: str, message: p.Message) -> None:
        instance, _, life = address.partition("/")
        step = self.steps.get(int(instance))
        if step is None or str(step.life) != life:
            return

        owner = self.gateway.life

        def arrive() -> None:
            match message:
                case p.Submit():
                    self._owners[message.request.request_id] = owner
                    step.submit(message.request)
                case p.Abort():
                    step.abort(message.request_id)

        self.post.send(step, message, arrive)

    def stray(self, step: SimStep, num_tokens: int) -> None:
        """A request whose client is gone before its first word."""
        name, prompt = f"stray{next(self._numbers)}", (1,) * num_tokens
        request = Request(request_id=name, prompt_ids=prompt, sampling=SamplingParams(max_tokens=1))
        self.post.send(step, p.Submit(request), lambda: step.submit(request))

    def _to_client(self, step: SimStep, request_id: str, message: p.Message) -> None:
        if self._owners.get(request_id) != self.gateway.life:
            step.abort(request_id)  # nobody waits for this request any more
            return
        if isinstance(message, p.Tokens):
            self.world.notes["reused_tokens"] += message.num_reused
        self.post.send(self.gateway, message, lambda: self.gateway.on_message(message))

    # --- processes ----------------------------------------------------------------------------

    def _add(
        self,
        instance: int,
        num_blocks: int,
        *,
        is_donor: bool = False,
        is_guest: bool = False,
    ) -> None:
        pool = SimPool(
            self.world,
            instance,
            num_blocks,
            is_donor=is_donor,
            is_guest=is_guest,
            ask=self.ask,
            left=self._left,
        )
        self.pools[instance] = pool
        if not is_donor:
            self.steps[instance] = SimStep(
                self.world,
                pool,
                connect=self._connect,
                make=self._scheduler,
                ask=self.ask,
                to_client=self._to_client,
                left=self._step_left,
            )

    def _scheduler(self, step: SimStep) -> Scheduler:
        tokens = self.world.config.block_tokens
        return Scheduler(
            Scheduler.Config(
                max_step_tokens=3 * tokens,
                max_num_seqs=6,
                grow_blocks=2,
                lease_s=self.world.lease_s,
                retry_s=0.05,
                sure_s=8.0,
                max_tpot_s=0.0039 if step.instance % 4 == 0 else 0.0,
            ),
            instance=step.instance,
            host="sim",
            layout=layout_of(tokens),
            placement=self._placement,
            num_blocks=step.pool.num_blocks,
            max_positions=MAX_POSITIONS,
            eos_ids=frozenset({EOS}),
            epoch=step.epoch,
        )
