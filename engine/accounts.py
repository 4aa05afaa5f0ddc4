"""Accounts: what a running step tells of itself and of its requests, from all parts that know."""

from msgspec.structs import replace

from engine.attention.travel import Travel, Travels
from engine.mover import Mover
from engine.protocol import Explained, Life, Load, Report
from engine.scheduler.effects import Finish
from engine.scheduler.loads import told
from engine.scheduler.scheduler import Scheduler


class Accounts:
    def __init__(self, scheduler: Scheduler, travels: Travels, mover: Mover) -> None:
        self._scheduler = scheduler
        self._travels = travels
        self._mover = mover

    def load(self, now: float) -> Load:
        """What the planner is told."""
        load, travels = self._scheduler.load(now), self._travels
        counts = {
            "block_reads": travels.num_block_reads,
            "missed_deadlines": travels.num_missed,
            "query_bytes": travels.in_all.query_bytes,
            "partial_bytes": travels.in_all.partial_bytes,
            "kv_bytes_avoided": travels.in_all.kv_bytes_avoided,
        }
        histograms = load.histograms | {"trip_s": told(travels.trips)}
        return replace(load, counts=load.counts | counts, histograms=histograms)

    def explain(self, request_id: str) -> Explained | None:
        """The life so far of a request that is here."""
        for sequence in self._scheduler.roster.all():
            if sequence.request.request_id == request_id:
                travel = self._travels.of.get(sequence.number, Travel())
                return Explained(request_id, _life(sequence.timeline.life(), travel))
        return None

    def report(self, finish: Finish) -> Report:
        """Of a sequence that ends; it is forgotten here."""
        travel = self._travels.of.pop(finish.sequence, None) or Travel()
        return Report(
            finish.request_id,
            list(finish.holders),
            travel.query_bytes,
            travel.partial_bytes,
            self._mover.moved_bytes.pop(finish.sequence, 0),
            travel.kv_bytes_avoided,
            dict(travel.steps_by_way),
            finish.recomputed_tokens,
            _life(finish.life, travel),
        )


def _life(life: Life, travel: Travel) -> Life:
    return replace(life, trip_s=dict(travel.trip_s))
