"""StepTime: how long a step takes where some of its keys lie elsewhere, and what holders do for it.

Two ways to use a lent block. ``query``: in each layer the query travels, the holder attends, its
partial travels back, beside the own part; who else works on a device or sends over a link at that
time takes its part of it. ``fetch``: in each layer the keys travel, beside the layer before; what
tiers do that move the cache to the query.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from engine.errors import ConfigError
from engine.sim.hardware.costs import Costs, Roofline, Timed
from engine.sim.hardware.model import Model
from engine.sim.hardware.profile import Link, Profile
from engine.sim.hardware.topology import Topology

Way = Literal["query", "fetch"]
KNOWN = 1 << 16
"""sizes of steps whose time without keys is remembered: most of a run's are alike"""


class Keys(Struct, frozen=True, gc=False):
    """What a step's rows attend to at one place."""

    rows: int
    """query rows that go there"""
    read: float
    """keys there, each counted once for a sequence"""
    pairs: float
    """of a query row and a key"""


class Work(Struct, frozen=True):
    """One step of an instance."""

    num_rows: int
    num_sampled: int
    own: Keys
    remote: Mapping[int, Keys] = {}
    """by holder"""


def further(work: Work, num_steps: int) -> Work:
    """A decode step's work so many steps later: each row has as many keys more, at home."""
    more, own = num_steps * work.num_rows, work.own
    keys = Keys(own.rows, own.read + more, own.pairs + more)
    return Work(work.num_rows, work.num_sampled, keys, work.remote)


class Took(Struct, frozen=True):
    seconds: float
    serving_s: Mapping[int, float]
    """what each holder's device was busy for it"""
    answered_s: float = 0.0
    """until the last answers of all layers were there, beside the own part"""
    own_s: float = 0.0
    """what its own device was busy"""


class StepTime:
    """Of the instances of one kind of machine."""

    def __init__(self, profile: Profile, model: Model, tp: int, way: Way = "query") -> None:
        """Raises ConfigError where steps were measured that are not this model's."""
        measured = profile.measured
        if measured and measured.sizes and (measured.sizes != model.sizes or tp != 1):
            raise ConfigError(
                f"hardware: its steps were timed with tp=1 and a model of sizes {measured.sizes}, "
                f"not tp={tp} and {model.sizes}; lendkv profile times another model, and "
                "hardware_changes.measured=null takes the rates alone"
            )
        self.topology = Topology(profile, tp)
        self.model = model
        self._way = way
        self._tp = tp
        self._measured = profile.measured
        self.costs: Costs = (
            Timed(profile.measured)
            if profile.measured
            else Roofline(profile.device, model, self.topology)
        )
        self._linear_s = lru_cache(maxsize=KNOWN)(self.costs.linear_s)

    def of(self, instance: int, work: Work, load: Callable[[int], float] = lambda _: 0.0) -> Took:
        """``load``: what else a holder's device does meanwhile: 1 is all of the time on one thing,
        as on a step of its own. Who works on a device at the same time gets equal shares of it.
        """
        linear_s = self._linear_s(work.num_rows, work.num_sampled)
        own_s = self.costs.attention_s(work.own.read, work.own.pairs)
        if not work.remote:
            return Took(linear_s + own_s, {}, own_s=linear_s + own_s)
        if self._way == "fetch":
            return self._fetched(instance, work, linear_s)
        known, serving_s, answered_s = self._measured, {}, 0.0
        profile = self.topology.profile
        near, far, near_rows, far_rows = profile.intra, profile.inter, 0, 0
        for holder, keys in work.remote.items():
            link, others = self.topology.link(instance, holder), load(holder)
            device_s = away_s = self.costs.attention_s(keys.read, keys.pairs)
            away_s += others * device_s + (min(1.0, others) * known.wait_s if known else 0.0)
            if known:
                device_s += known.answer_s
            serving_s[holder] = device_s
            answered_s = max(answered_s, away_s + self._travel_s(link, keys.rows))
            if link is near:
                near_rows += keys.rows
            else:
                far_rows += keys.rows
        # Parts of all layers are alike, so what shows in one shows in each.
        links_s = self._partials_s(near, near_rows), self._partials_s(far, far_rows)
        answered_s = max(answered_s, *links_s)
        ask_s = known.ask_s * len(work.remote) if known else 0.0
        seconds = linear_s + max(own_s, answered_s) + ask_s
        return Took(seconds, serving_s, answered_s, linear_s + own_s)

    def alone(self, work: Work, num_steps: int) -> Iterator[float]:
        """Seconds of so many decode steps in a row, this one the first, all of whose keys are here:
        the time of each is that ``of`` would give for ``further`` work.
        """
        linear_s = self._linear_s(work.num_rows, work.num_sampled)
        attention_s, own = self.costs.attention_s, work.own
        for more in range(0, num_steps * work.num_rows, work.num_rows):
            yield linear_s + attention_s(own.read + more, own.pairs + more)

    def mapped(self, work: Work) -> Took:
        """All is read here, from where it lies in the host's memory."""
        read = work.own.read + sum(keys.read for keys in work.remote.values())
        pairs = work.own.pairs + sum(keys.pairs for keys in work.remote.values())
        linear_s = self._linear_s(work.num_rows, work.num_sampled)
        seconds = linear_s + self.costs.attention_s(read, pairs)
        return Took(seconds, {}, own_s=seconds)

    @property
    def is_mapped(self) -> bool:
        """Whether instances on one host may read each other's memory in place."""
        return self._way == "query" and self._measured is not None and self._measured.maps

    def copy_s(self, instance: int, other: int, num_bytes: float) -> float:
        """A block's way from one instance to another; each rank sends its heads."""
        return self.topology.link(instance, other).seconds(num_bytes / self._tp)

    def message_s(self, instance: int, other: int) -> float:
        """A small message's way, without what either side does about it."""
        return self.topology.link(instance, other).latency_s

    def trip_s(self, instance: int, other: int) -> float:
        """What a decode of one row waits for another instance that has next to nothing to do."""
        return self._travel_s(self.topology.link(instance, other), 1)

    def _travel_s(self, link: Link, rows: int) -> float:
        """Queries out (16 bit) and partials back, all layers."""
        query = self._values(rows) * self.model.item_bytes
        return self.model.num_layers * (
            link.seconds(query) + link.seconds(self._partial_bytes(rows))
        )

    def _partials_s(self, link: Link, rows: int) -> float:
        """Partials of all holders come in over the asker's link one after another."""
        return self.model.num_layers * (link.seconds(self._partial_bytes(rows)) - link.latency_s)

    def _partial_bytes(self, rows: int) -> float:
        """A layer's, float32, with their log-sum-exp."""
        return 4 * self._values(rows) * (1 + 1 / self.model.head_dim)

    def _values(self, rows: int) -> float:
        return rows * self.model.num_heads * self.model.head_dim / self._tp

    def _fetched(self, instance: int, work: Work, linear_s: float) -> Took:
        """All keys are attended to here; what a layer's compute does not hide of their way shows.

        The instance's links take in what comes from all holders one after another.
        """
        model = self.model
        remote = work.remote.items()
        way_s = model.num_layers * sum(
            self.topology.link(instance, holder).seconds(
                keys.read * model.kv_layer_bytes / self._tp
            )
            for holder, keys in remote
        )
        read = work.own.read + sum(keys.read for _, keys in remote)
        pairs = work.own.pairs + sum(keys.pairs for _, keys in remote)
        here_s = linear_s + self.costs.attention_s(read, pairs)
        return Took(max(here_s, way_s), {}, own_s=here_s)
