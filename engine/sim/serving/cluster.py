"""Cluster: instances, their pools and the front, and the channels between them."""

from collections.abc import Sequence

from msgspec.structs import replace

from engine import protocol as p
from engine.errors import ConfigError
from engine.scheduler import PLACEMENTS
from engine.scheduler.scheduler import Scheduler
from engine.sim.hardware.memory import num_blocks
from engine.sim.hardware.model import model_of
from engine.sim.hardware.profile import profile_of
from engine.sim.hardware.step_time import Keys, StepTime, Work
from engine.sim.serving.clock import Clock
from engine.sim.serving.config import ServingConfig
from engine.sim.serving.copies import Copies
from engine.sim.serving.front import Front
from engine.sim.serving.instance import Instance
from engine.sim.serving.pool import Pool
from engine.sim.serving.systems import System
from engine.sim.serving.ticks import TICK_S, Ticks
from engine.sim.serving.workload import Arrival

LOAD_S, REGISTER_S = 0.25, 1.0
"""as the processes do: reports of steps, and registrations"""
CONTROL_S = 0.0005
"""assumption: way of a control message, its handling included"""
NO_LIMIT = 1 << 40
"""of a model's positions: what a cluster could hold is the question here"""
KNOWN_BATCHES, KNOWN_KEYS = (1, 4, 16), (64, 16384)
"""decode steps that are timed at the start, as engine/profile.py does"""


class Cluster:
    """Of one system, with nothing in it. Raises ConfigError."""

    def __init__(self, config: ServingConfig, system: System) -> None:
        self.config = config
        self.profile = profile = profile_of(config.hardware, config.hardware_changes)
        model = model_of(config.model)
        self.times = StepTime(profile, model, config.tp, system.way)
        self.pool_blocks = config.pool_blocks or num_blocks(
            profile, model, config.tp, config.block_tokens
        )
        known = profile.measured.control_s if profile.measured else 0.0
        self.control_s = config.control_s or known or CONTROL_S
        kind = PLACEMENTS.load(system.placement)
        options = config.placement_options.get(system.placement, {})
        try:
            placement = kind(kind.Config(**options))
        except TypeError as error:
            raise ConfigError(f"placement_options.{system.placement}: {error}") from error
        layout = model.layout(config.block_tokens)
        self.clock = Clock()
        self.front = Front(self, placement, layout.fingerprint)
        self.copies = Copies(self, layout.block_bytes)
        self.instances: list[Instance] = []
        for number in range(config.instances):
            host = self.times.topology.host(number)
            pool = Pool(config.lending, number, layout, self.pool_blocks, host)
            scheduler = Scheduler(
                config.scheduler,
                instance=number,
                host=host,
                layout=layout,
                placement=placement,
                num_blocks=self.pool_blocks,
                max_positions=NO_LIMIT,
                eos_ids=frozenset(),
            )
            self.instances.append(Instance(self, number, scheduler, pool))

    def start(self, arrivals: Sequence[Arrival]) -> None:
        """All are there and known before the first request comes."""
        for one in self.instances:
            self._report(one)
        self.front.start(arrivals)

    def carry(self, debtor: int, instance: int, message: p.Message) -> None:
        """A step's message to another's pool."""
        holder = self.instances[instance]

        def arrive() -> None:
            holder.obey(holder.pool.handle(debtor, message, self.clock.now))

        self.clock.after(self.times.message_s(debtor, instance), arrive)

    def reply(self, instance: int, debtor: int, message: p.Message) -> None:
        """A pool's message to another's step."""
        if isinstance(message, p.Welcome | p.Released):
            return  # nobody acts on them
        to, way_s = self.instances[debtor], self.times.message_s(instance, debtor)
        self.clock.after(way_s, lambda: to.hear(instance, message))

    def _report(self, one: Instance) -> None:
        """Periodic words of an instance; those of different ones are spread over the period."""
        config, front, scheduler = self.config, self.front, one.scheduler
        share = one.number / config.instances
        name = str(one.number)

        beats, loads = one.pool.beats, one.loads

        def beat() -> None:
            front.beat(one.number, beats.next(one.pool.heartbeat(self.clock.now)))

        def load() -> None:
            one.reports_at = self.clock.now + LOAD_S
            one.between_steps(lambda: front.ask(one, loads.next(scheduler.load(self.clock.now))))

        def register() -> None:
            front.ask(one, p.Register(one.number, 1, name))
            front.ask(one, p.MembersQuery())

        planner = front.planner
        planner.handle(b"pool%d" % one.number, beats.next(one.pool.heartbeat(0.0)), 0.0)
        planner.handle(b"step%d" % one.number, p.Register(one.number, 1, name), 0.0)
        known = replace(scheduler.load(0.0), samples=self._known_steps(one.number))
        planner.handle(b"step%d" % one.number, loads.next(known), 0.0)
        self.clock.every(config.heartbeat_s, share * config.heartbeat_s, beat)
        one.reports_at = share * LOAD_S
        Ticks(self.clock, one.pool, share * TICK_S, one.obey)
        self.clock.every(LOAD_S, share * LOAD_S, load)
        self.clock.every(REGISTER_S, share * REGISTER_S, register)

    def _known_steps(self, instance: int) -> list[p.StepSample]:
        samples = []
        for rows in KNOWN_BATCHES:
            for keys in KNOWN_KEYS:
                work = Work(rows, rows, Keys(rows, rows * keys, rows * keys))
                seconds = self.times.of(instance, work).seconds
                samples.append(p.StepSample(rows, rows * keys, 0, seconds))
        return samples
