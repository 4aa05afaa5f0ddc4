"""History: one seed's requests and faults, run to the end, and what was found."""

from collections.abc import Callable
from dataclasses import dataclass, field

from engine.core import Request, SamplingParams
from engine.sim.cluster import Cluster
from engine.sim.config import SimConfig
from engine.sim.provocation import Provocation
from engine.sim.rest import Rest, count_blocks
from engine.sim.trouble import Trouble
from engine.sim.world import World

CHECK_S = 0.05
NUM_PREFIXES = 2
QUIET_S = 15.0
"""after the last answer: leases run out, and everything must be where it belongs"""


@dataclass(slots=True)
class Found:
    """What one history says; figures add up over histories."""

    seed: int
    messages: int
    fingerprint: str
    violations: list[str]
    faults: dict[str, int]
    coverage: dict[tuple[str, str, str], int]
    notes: dict[str, int]
    lost_blocks: int = 0
    leaked_blocks: int = 0
    unfinished: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.violations or self.lost_blocks or self.leaked_blocks or self.unfinished)


def run(
    config: SimConfig,
    seed: int,
    *,
    trace: bool = False,
    skip_faults: frozenset[int] = frozenset(),
    skip_requests: frozenset[int] = frozenset(),
) -> Found:
    """The skipped are left out of the same history: that is how a failing one shrinks."""
    world = World(config, seed)
    world.trace = [] if trace else None
    cluster = Cluster(world)
    trouble = Trouble(cluster)
    Provocation(cluster, trouble)
    requests = _requests(world, cluster)
    trouble.num_needed = max(_num_blocks(request, config) for _, request in requests)
    for number, (time, request) in enumerate(requests):
        if number not in skip_requests:
            world.at(time, lambda request=request: cluster.gateway.submit(request))  # type: ignore[misc]
    for number, (time, fault) in enumerate(_faults(world, trouble)):
        if number not in skip_faults:
            world.at(time, fault)
    wanted = config.requests - len(skip_requests)
    _watch(world, cluster)

    def is_over() -> bool:
        is_calm = world.now > config.fault_s + 3.0
        return is_calm and cluster.gateway.num_answered == wanted

    world.run(is_over, config.limit_s)
    unfinished = cluster.gateway.unfinished
    end = world.now + QUIET_S
    world.run(lambda: world.now >= end, end)
    found = Found(
        seed,
        world.messages,
        world.fingerprint,
        world.violations,
        dict(world.faults),
        dict(world.coverage),
        dict(world.notes),
        unfinished=unfinished,
        trace=world.trace or [],
    )
    found.lost_blocks, found.leaked_blocks = count_blocks(cluster)
    return found


def _requests(world: World, cluster: Cluster) -> list[tuple[float, Request]]:
    """Each fits the cluster without its two largest pools; all together are far more."""
    config, chance = world.config, world.chance
    low, high = config.prompt_tokens
    prefixes = [[chance.randrange(1, 90) for _ in range(high)] for _ in range(NUM_PREFIXES)]
    sizes = sorted(pool.num_blocks - 1 for pool in cluster.pools.values())
    most = int(0.6 * sum(sizes[:-2])) * config.block_tokens
    requests = []
    for number in range(config.requests):
        top = high if chance.random() < 0.3 else low + (high - low) // 5
        long = 5 if chance.random() < 0.2 else 1
        num_output = min(most // 2, long * chance.randint(*config.output_tokens))
        length = min(chance.randint(low, top), max(low, most - num_output))
        own = [1000 + number, *(chance.randrange(1, 90) for _ in range(length - 1))]
        common = chance.choice(prefixes)[: chance.randint(length // 2, length)]
        prompt = (*common, *own)[:length] if chance.random() < config.prefix_share else own
        request = Request(
            request_id=str(number),
            prompt_ids=tuple(prompt),
            sampling=SamplingParams(max_tokens=num_output),
            cache_salt=chance.choice("ab") if chance.random() < config.salt_share else "",
        )
        requests.append((_moment(world, 0.5, config.arrive_s, config.pause_s), request))
    return requests


def _moment(world: World, first: float, end: float, pause_s: float) -> float:
    """Any time, but for the last so many seconds of each period."""
    period_s = world.config.period_s
    while True:
        time = world.chance.uniform(first, end)
        if not period_s or time % period_s < period_s - pause_s:
            return time


def _num_blocks(request: Request, config: SimConfig) -> int:
    num_tokens = len(request.prompt_ids) + request.sampling.max_tokens
    return -(-num_tokens // config.block_tokens)


def _faults(world: World, trouble: Trouble) -> list[tuple[float, Callable[[], None]]]:
    """Each kind as often as any other, in any order."""
    config, chance = world.config, world.chance
    faults: list[tuple[float, Callable[[], None]]] = []
    kinds = [config.kinds[number % len(config.kinds)] for number in range(config.faults)]
    chance.shuffle(kinds)
    for kind in kinds:
        instance = chance.randrange(config.instances)
        seconds = chance.choice([0.1, 0.7, 2.5])  # short, past a wait, past a lease
        other = (instance + chance.randrange(1, config.instances)) % config.instances
        together = chance.random() < 0.3
        time = _moment(world, 1.0, config.fault_s, config.pause_s / 2)

        def fault(
            kind: str = kind,
            instance: int = instance,
            other: int = other,
            seconds: float = seconds,
            together: bool = together,
        ) -> None:
            world.faults[kind] += 1
            world.told(f"fault {kind} {instance} {other} {seconds}")
            trouble.strike(kind, instance, other, seconds)
            if kind == "kill_pool" and together:
                world.notes["double_holder_death"] += 1
                trouble.strike(kind, other, instance, seconds)

        faults.append((time, fault))
    return faults


def _watch(world: World, cluster: Cluster) -> None:
    """The books balance at any time; debts in a circle are noted."""
    rest = Rest(cluster)

    def look() -> None:
        owed: set[tuple[int, int]] = set()
        for pool in cluster.pools.values():
            if not pool.is_alive:
                continue
            try:
                pool.rmanager.check()
            except AssertionError as error:
                world.violation(f"{pool.name}: the books do not balance: {error}")
            beat = pool.rmanager.heartbeat(address="", host="", now=pool.clock())
            owed |= {(debtor, pool.instance) for debtor in beat.lent}
        world.notes["mutual_debt"] += any((b, a) in owed for a, b in owed)
        for step in cluster.steps.values():
            if step.is_alive:
                try:
                    step.scheduler.roster.check()
                except AssertionError as error:
                    world.violation(f"{step.name}: the books do not balance: {error}")
        rest.look()
        world.at(world.now + CHECK_S, look)

    world.at(CHECK_S, look)
