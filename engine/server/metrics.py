"""Prometheus metrics of a gateway: ``vllm:`` names where the meaning is the same.

What instances count comes from their last reports, whole: a counter begins at 0 again with the
process that has it, as Prometheus expects.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.utils import floatToGoString

from engine.core import Distribution
from engine.protocol import Heartbeat, Histogram, Load, Member, View
from engine.scheduler.entry import FIRST, Entry
from engine.scheduler.request_table import RequestTable
from engine.server.journal import Terms
from engine.server.metric_table import ENGINE, TABLE, Metric
from engine.server.overview import ledger
from engine.server.phases import Phases, amount, times

Labels = tuple[str, ...]
Spread = Distribution | Histogram
BOUNDS = {metric.name: metric.bounds for metric in TABLE}


class Metrics:
    """Counts requests as they end; the rest is read when it is scraped."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._counts: defaultdict[str, defaultdict[Labels, float]] = defaultdict(
            lambda: defaultdict(float)
        )
        self._spreads: defaultdict[str, dict[Labels, Spread]] = defaultdict(dict)

    def ended(self, entry: Entry, terms: Terms) -> None:
        """A request is done."""
        at = _name(entry.instance)
        if terms.index % terms.n == 0:  # the choices of a prompt are counted once
            self._add("vllm:request_params_n", at, terms.n)
        if entry.error:
            self._count("lendkv:request_failed", at)
        else:
            self._count("vllm:request_success", at, entry.finish_reason)
        self._count("lendkv:request_retries", at, number=max(entry.attempt - 1, 0))
        self._add("vllm:request_prompt_tokens", at, len(entry.request.prompt_ids))
        self._add("vllm:request_generation_tokens", at, len(entry.token_ids))
        self._add("vllm:request_params_max_tokens", at, entry.request.sampling.max_tokens)
        if entry.ended_at is not None:
            self._add("vllm:e2e_request_latency_seconds", at, entry.ended_at - entry.arrived)
        if entry.first_token_at is not None:
            ttft_s = entry.first_token_at - entry.arrived
            self._add("vllm:time_to_first_token_seconds", at, ttft_s)
            if len(entry.token_ids) > 1 and entry.last_token_at is not None:
                each_s = (entry.last_token_at - entry.first_token_at) / (len(entry.token_ids) - 1)
                self._add("vllm:request_time_per_output_token_seconds", at, each_s)

    def reported(self, entry: Entry) -> None:
        """The step of a request's last attempt has told of its life there."""
        attempt = entry.attempts[-1]
        life, at = attempt.life, str(attempt.instance)
        if life is None:
            return
        phases = Phases.of(life)
        for name, seconds in (
            ("queue", phases.queue_s),
            ("prefill", phases.prefill_s),
            ("decode", phases.decode_s),
            ("inference", phases.inference_s),
        ):
            if seconds is not None:
                self._add(f"vllm:request_{name}_time_seconds", at, seconds)
        computed = amount(life, "computed")
        self._add("vllm:request_prefill_kv_computed_tokens", at, computed)
        self._add("vllm:request_num_preemptions", at, times(life, "lost:preemption"))
        if attempt.why != FIRST:
            self._count("lendkv:recompute_tokens", at, attempt.why, number=computed)

    def text(self, table: RequestTable, members: Sequence[Member], view: View) -> bytes:
        """All of it as it stands, as Prometheus reads it."""
        registry = CollectorRegistry()
        registry.register(_Collected(list(self._families(table, members, view))))
        return generate_latest(registry)

    def _families(
        self, table: RequestTable, members: Sequence[Member], view: View
    ) -> Iterator[Family]:
        beats = {beat.instance: beat for beat in view.pools}
        loads = {load.instance: load for load in view.steps}
        here = self._of_gateway(table, members, view)
        for metric in TABLE:
            values: defaultdict[Labels, float] = defaultdict(float)
            spreads: dict[Labels, Spread] = {}
            for member in members:
                at = (self._model, str(member.instance))
                _add_zeros(metric, at, values, spreads)
                for label, value in _told(
                    metric, beats.get(member.instance), loads.get(member.instance)
                ):
                    if isinstance(value, Histogram):
                        spreads[at + label] = value
                    else:
                        values[at + label] += value
            for labels, number in [*self._counts[metric.name].items(), *here[metric.name].items()]:
                values[labels] += number
            spreads |= self._spreads[metric.name]
            if metric.name == "vllm:inter_token_latency_seconds":
                spreads |= {(self._model, str(one)): gaps for one, gaps in table.pace.gaps.items()}
            yield _family(metric, values, spreads)

    def _of_gateway(
        self, table: RequestTable, members: Sequence[Member], view: View
    ) -> defaultdict[str, dict[Labels, float]]:
        """What is neither counted here nor reported as it is."""
        model, found = self._model, defaultdict[str, dict[Labels, float]](dict)
        unplaced = sum(1 for entry in table.running if not entry.address)
        found["lendkv:requests_unplaced"][model,] = unplaced
        for instance, number in table.pace.tokens.items():
            found["vllm:generation_tokens"][model, str(instance)] = number
        for instance, number in table.pace.prompt_tokens.items():
            found["vllm:prompt_tokens"][model, str(instance)] = number
        for instance, number in table.pace.reused_tokens.items():
            found["vllm:prompt_tokens_cached"][model, str(instance)] = number
        for member in members:
            at, num_blocks = (model, str(member.instance)), member.num_blocks
            used = (num_blocks - member.num_free) / max(num_blocks, 1)
            found["vllm:kv_cache_usage_perc"][at] = used
            found["vllm:cache_config_info"][*at, str(table.block_tokens), str(num_blocks)] = 1
        for load in view.steps:
            borrowed = sum(load.borrowed.values())
            found["lendkv:borrowed_blocks"][model, str(load.instance)] = borrowed
            not_here = load.reuse.get("queries", 0) - load.reuse.get("hits_own", 0)
            found["vllm:external_prefix_cache_queries"][model, str(load.instance)] = not_here
        books = ledger(view)
        found["lendkv:ledger_difference_blocks"][model,] = books["lent"] - books["borrowed"]
        for loan in books["loans"]:
            pair = (model, str(loan["debtor"]), str(loan["creditor"]))
            found["lendkv:debt_blocks"][pair] = loan["lent"]
        return found

    def _count(self, name: str, *labels: str, number: float = 1) -> None:
        self._counts[name][self._model, *labels] += number

    def _add(self, name: str, at: str, value: float) -> None:
        spread = self._spreads[name].setdefault((self._model, at), Distribution(BOUNDS[name]))
        assert isinstance(spread, Distribution)
        spread.add(value)


class _Collected:
    """What Prometheus's client asks for families."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Sequence[Family]:
        return self._families


def _name(instance: int | None) -> str:
    return "" if instance is None else str(instance)


def _add_zeros(
    metric: Metric, at: Labels, values: dict[Labels, float], spreads: dict[Labels, Spread]
) -> None:
    """An instance's series are there before anything happens: rates need a beginning."""
    if metric.bounds:
        spreads[at] = Distribution(metric.bounds)
    elif metric.known:
        values.update(dict.fromkeys([(*at, known) for known in metric.known], 0))
    elif metric.labels == ENGINE and metric.kind == "counter":
        values[at] = 0


def _told(
    metric: Metric, beat: Heartbeat | None, load: Load | None
) -> Iterator[tuple[Labels, float | Histogram]]:
    """(last label if there is one, value) from an instance's reports."""
    (kind, _, part), key = metric.source[0].partition("."), metric.source[1]
    told = {"beat": beat, "load": load}.get(kind)
    if told is None:
        return
    if not part:
        yield (), getattr(told, key)
        return
    values: Mapping[str, float | Histogram] = getattr(told, part)
    before, star, behind = key.partition("*")
    for name, value in values.items():
        if name == key:
            yield (), value
        elif star and name.startswith(before) and name.endswith(behind):
            yield (name[len(before) : len(name) - len(behind)],), value


def _family(
    metric: Metric, values: Mapping[Labels, float], spreads: Mapping[Labels, Spread]
) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.text, labels=metric.labels)
        for labels, spread in spreads.items():
            below = accumulate(spread.counts)
            names = [*map(floatToGoString, spread.bounds), "+Inf"]
            histogram.add_metric(labels, list(zip(names, below, strict=True)), spread.total)
        return histogram
    kind = GaugeMetricFamily if metric.kind == "gauge" else CounterMetricFamily
    family = kind(metric.name, metric.text, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
