"""Prometheus metrics of a gateway: ``vllm:`` names where the meaning is the same."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from engine.protocol import Member
from engine.scheduler.request_table import Entry, RequestTable

TTFT_BUCKETS = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)


class Metrics:
    """Counts what ends; gauges are read from the table and the planner's view when scraped."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._registry = CollectorRegistry()
        labels = ["model_name"]
        engine = ["model_name", "engine"]

        def gauge(name: str, text: str, by: list[str]) -> Gauge:
            return Gauge(name, text, by, registry=self._registry)

        def counter(name: str, text: str, by: list[str]) -> Counter:
            return Counter(name, text, by, registry=self._registry)

        self._running = gauge("vllm:num_requests_running", "requests at an instance", labels)
        self._waiting = gauge("vllm:num_requests_waiting", "requests without an instance", labels)
        self._usage = gauge("vllm:kv_cache_usage_perc", "share of the own pool in use", engine)
        self._blocks = gauge("lendkv:pool_blocks", "rBlocks of the pool", engine)
        self._lent = gauge("lendkv:lent_blocks", "rBlocks lent to other instances", engine)
        self._lendable = gauge("lendkv:lendable_blocks", "rBlocks it would lend now", engine)
        self._relief = gauge(
            "lendkv:memory_relief",
            "how often its step found memory by each means since it began",
            [*engine, "means"],
        )
        self._success = counter(
            "vllm:request_success", "finished requests", ["model_name", "finished_reason"]
        )
        self._failed = counter("lendkv:request_failed", "requests that ended with an error", labels)
        self._prompt = counter("vllm:prompt_tokens", "prompt tokens of finished requests", labels)
        self._generated = counter("vllm:generation_tokens", "tokens of finished answers", labels)
        self._retried = counter("lendkv:request_retries", "attempts after the first", labels)
        self._ttft = Histogram(
            "vllm:time_to_first_token_seconds",
            "arrival to first token",
            labels,
            buckets=TTFT_BUCKETS,
            registry=self._registry,
        )

    def ended(self, entry: Entry) -> None:
        """Count a request that is done."""
        model = self._model
        if entry.error:
            self._failed.labels(model).inc()
        else:
            self._success.labels(model, entry.finish_reason).inc()
        self._prompt.labels(model).inc(len(entry.request.prompt_ids))
        self._generated.labels(model).inc(len(entry.token_ids))
        self._retried.labels(model).inc(max(entry.attempt - 1, 0))
        if entry.first_token_at is not None:
            self._ttft.labels(model).observe(entry.first_token_at - entry.arrived)

    def text(self, table: RequestTable, members: Sequence[Member]) -> bytes:
        placed = sum(1 for entry in table.running if entry.address)
        self._running.labels(self._model).set(placed)
        self._waiting.labels(self._model).set(len(table.running) - placed)
        for member in members:
            at = (self._model, str(member.instance))
            used = member.num_blocks - member.num_free
            self._usage.labels(*at).set(used / max(member.num_blocks, 1))
            self._blocks.labels(*at).set(member.num_blocks)
            self._lent.labels(*at).set(member.num_lent)
            self._lendable.labels(*at).set(member.num_lendable)
            for means, number in member.relief.items():
                self._relief.labels(*at, means).set(number)
        return generate_latest(self._registry)
