"""Cluster: the simulated processes of all instances, and the messages between them."""

from collections.abc import Callable
from itertools import count

from engine import protocol as p
from engine.core import Request, SamplingParams
from engine.scheduler import PLACEMENTS
from engine.scheduler.scheduler import Scheduler
from engine.sim.control import SimGateway, SimPlanner
from engine.sim.lane import Lane
from engine.sim.link import NOTICE_S, Link
from engine.sim.pool import SimPool
from engine.sim.step import MAX_POSITIONS, SimStep
from engine.sim.truth import EOS, layout_of
from engine.sim.world import Process, World, kind_of

RESTART_S = 0.3
LOST_SHARE = 0.01
"""of the messages to and from the planner: its state is soft"""


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
        self.planner = SimPlanner(world, self._placement, self.tell)
        self.gateway = SimGateway(world, self._to_step, self._ask_members)
        self.pools: list[SimPool] = []
        self.steps: list[SimStep] = []
        low, *tops = config.pool_blocks
        high = chance.choice(tops)
        for instance in range(config.instances):
            pool = SimPool(world, instance, chance.randint(low, high), self.to_planner)
            self.pools.append(pool)
            self.steps.append(self._step(instance))
        self._lanes: dict[tuple[Process, bool], Lane] = {}
        """of each receiver: from the planner and to it, and from or to the gateway"""
        self.planner.start()
        for instance in range(config.instances):
            self.pools[instance].start()
            self.start_step(instance)
        self.gateway.start()

    def kill_step(self, instance: int) -> None:
        """The supervisor starts it again; its channels end with it."""
        if not self.steps[instance].is_alive:
            return
        self._end(self.steps[instance])
        self.world.at(self.world.now + RESTART_S, lambda: self.start_step(instance))

    def kill_pool(self, instance: int) -> None:
        """A dead pool takes its step along; both come back, with new memory."""
        self._end(self.pools[instance])
        self._end(self.steps[instance])

        def again() -> None:
            if not self.pools[instance].is_alive:
                self.pools[instance].start()
                self.start_step(instance)

        self.world.at(self.world.now + RESTART_S, again)

    def kill(self, process: SimPlanner | SimGateway) -> None:
        process.stop()
        self.world.at(self.world.now + RESTART_S, process.start)

    def start_step(self, instance: int) -> None:
        step = self.steps[instance]
        if not step.is_alive and self.pools[instance].is_alive:
            step.start()
            self._register(step)

    # --- channels -----------------------------------------------------------------------------

    def _connect(self, step: SimStep, instance: int) -> Link | None:
        pool = self.pools[instance]
        if not pool.is_alive:
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
        pool, step = self.pools, self.steps
        instance, owner = link.pool.instance, link.step.instance  # type: ignore[attr-defined]
        pool[instance].after(NOTICE_S, lambda: pool[instance].lost(link))
        step[owner].after(NOTICE_S, lambda: step[owner].lost(link))

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

    def to_planner(
        self, message: p.Message, answer: Callable[[p.Message], None] | None = None
    ) -> None:
        def arrive() -> None:
            self.planner.take(message, lambda said: answer(said) if answer else None)

        self._post(self.planner, message, arrive, lossy=True)

    def tell(self, instance: int, message: p.Message) -> None:
        """What the planner says to an instance."""
        if isinstance(message, p.Freeze):
            pool = self.pools[instance]
            self._post(pool, message, lambda: pool.on_advice(message), lossy=True)
        else:
            step = self.steps[instance]
            self._post(step, message, lambda: step.on_planner(message), lossy=True)

    def _register(self, step: SimStep) -> None:
        """Again and again, as real steps do; also asks for the members."""

        def again() -> None:
            epoch = self.pools[step.instance].epoch
            address = "" if step.scheduler.is_leaving else f"{step.instance}/{step.life}"
            self.to_planner(p.Register(step.instance, epoch, address))
            life = step.life

            def answer(said: p.Message) -> None:
                if step.life == life:
                    self.tell(step.instance, said)

            self.to_planner(p.MembersQuery(), answer)

        step.every(0.3, again)

    def _ask_members(self) -> None:
        def answer(said: p.Message) -> None:
            if isinstance(said, p.Members):
                members = said.members
                self._post(self.gateway, said, lambda: self.gateway.on_members(members), lossy=True)

        self.to_planner(p.MembersQuery(), answer)

    def _to_step(self, address: str, message: p.Message, request: Request | None) -> None:
        instance, _, life = address.partition("/")
        step = self.steps[int(instance)]
        if str(step.life) != life:
            return

        owner = self.gateway.life

        def arrive() -> None:
            match message:
                case p.Submit():
                    assert request is not None
                    self._owners[message.request_id] = owner
                    sampling = SamplingParams(max_tokens=message.max_tokens)
                    step.submit(
                        Request(
                            request_id=request.request_id,
                            prompt_ids=request.prompt_ids,
                            sampling=sampling,
                            age_s=message.age_s,
                        ),
                    )
                case p.Abort():
                    step.abort(message.request_id)

        self._post(step, message, arrive)

    def _to_client(self, step: SimStep, request_id: str, message: p.Message) -> None:
        if self._owners.get(request_id) != self.gateway.life:
            step.abort(request_id)  # nobody waits for this request any more
            return
        self._post(self.gateway, message, lambda: self.gateway.on_message(message))

    def _post(
        self,
        receiver: Process,
        message: p.Message,
        arrive: Callable[[], None],
        *,
        lossy: bool = False,
    ) -> None:
        """Control messages: in order to a process, and lost with it."""
        world, kind, life = self.world, kind_of(message), receiver.life
        world.messages += 1

        def deliver() -> None:
            state, fate = receiver.state, "none"
            if receiver.life != life or (lossy and world.chance.random() < LOST_SHARE):
                fate = "lost"
            elif receiver.STATES:
                fate = world.fate(kind, state)
            if fate == "late":
                receiver.pause()
            elif fate == "none" and receiver.is_frozen:
                fate = "late"
            world.coverage[kind, fate, state] += 1
            if fate != "lost":
                receiver.after(0.0, arrive)
            elif receiver.life == life and not lossy and isinstance(receiver, SimStep):
                self.kill_step(receiver.instance)  # what it was told dies with it

        arrival = world.now + (world.delay() if lossy else 0.001)
        lane = self._lanes.setdefault((receiver, lossy), Lane(world, receiver))
        world.at(arrival, lambda: lane.arrive(kind, deliver))

    # --- instances ----------------------------------------------------------------------------

    def _step(self, instance: int) -> SimStep:
        config = self.world.config
        pool = self.pools[instance]

        def make(step: SimStep) -> Scheduler:
            return Scheduler(
                Scheduler.Config(
                    max_step_tokens=3 * config.block_tokens,
                    max_num_seqs=6,
                    grow_blocks=2,
                    lease_s=self.world.lease_s,
                    retry_s=0.05,
                    sure_s=8.0,
                    max_tpot_s=0.0039 if instance % 4 == 0 else 0.0,
                ),
                instance=instance,
                host="sim",
                layout=layout_of(config.block_tokens),
                placement=self._placement,
                num_blocks=pool.num_blocks,
                max_positions=MAX_POSITIONS,
                eos_ids=frozenset({EOS}),
                epoch=step.epoch,
            )

        step: SimStep

        def to_planner(message: p.Message) -> None:
            life = step.life

            def answer(said: p.Message) -> None:
                if step.life == life:
                    self._post(step, said, lambda: step.on_planner(said), lossy=True)

            self.to_planner(message, answer)

        step = SimStep(
            self.world,
            instance,
            connect=self._connect,
            memory=lambda: pool.memory,
            make=make,
            to_planner=to_planner,
            to_client=lambda name, message: self._to_client(step, name, message),
        )
        return step
