"""Tracing: a span of OpenTelemetry for each request, told to a collector. Needs the extra otel."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any

from engine.errors import ConfigError
from engine.scheduler.entry import Entry
from engine.server.journal import Terms
from engine.server.phases import Phases, amount

WAIT_S = 2.0
"""how long the span of a request that has ended waits for its step's report"""


class Tracing:
    """``accepted``, ``ended`` and ``reported`` as it happens to requests."""

    def __init__(self, endpoint: str, model: str) -> None:
        """``endpoint``: of OTLP over HTTP, such as http://localhost:4318/v1/traces. ConfigError
        where the extra is not installed."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise ConfigError(
                f"serve.otlp_traces_endpoint needs a package that is not there ({error.name}): "
                "pip install 'lendkv[otel]'"
            ) from error
        provider = TracerProvider(resource=Resource.create({"service.name": "lendkv"}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = provider.get_tracer("lendkv")
        self._model = model
        self._parents: dict[str, Mapping[str, str]] = {}
        """request -> the headers that name its parent span"""

    def accepted(self, request_ids: Iterable[str], headers: Mapping[str, str]) -> None:
        """A client's request, with the headers it came with."""
        wanted = ("traceparent", "tracestate")
        parent = {name: headers[name] for name in wanted if name in headers}
        self._parents |= dict.fromkeys(request_ids, parent)

    def ended(self, entry: Entry, _terms: Terms) -> None:
        """It is done; its step's report comes in a moment, unless the step is gone."""
        asyncio.get_running_loop().call_later(WAIT_S, self.reported, entry)

    def reported(self, entry: Entry) -> None:
        """All is known that will be: make its span, once."""
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = self._parents.pop(entry.request.request_id, None)
        if parent is None or entry.ended_at is None:
            return
        ago_s = time.monotonic() - entry.arrived
        began_ns = time.time_ns() - round(1e9 * ago_s)
        span = self._tracer.start_span(
            "llm_request",
            TraceContextTextMapPropagator().extract(parent),
            SpanKind.SERVER,
            attributes=self._attributes(entry),
            start_time=began_ns,
        )
        if entry.error:
            span.set_status(Status(StatusCode.ERROR, entry.error))
        span.end(began_ns + round(1e9 * (entry.ended_at - entry.arrived)))

    def _attributes(self, entry: Entry) -> dict[str, Any]:
        request, sampling = entry.request, entry.request.sampling
        found: dict[str, Any] = {
            "gen_ai.request.id": request.request_id,
            "gen_ai.response.model": self._model,
            "gen_ai.request.max_tokens": sampling.max_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.usage.prompt_tokens": len(request.prompt_ids),
            "gen_ai.usage.completion_tokens": len(entry.token_ids),
            "lendkv.finish_reason": entry.finish_reason or "error",
            "lendkv.attempts": entry.attempt,
            "lendkv.cached_tokens": entry.num_reused,
        }
        if entry.ended_at is not None:
            found["gen_ai.latency.e2e"] = entry.ended_at - entry.arrived
        if entry.first_token_at is not None:
            found["gen_ai.latency.time_to_first_token"] = entry.first_token_at - entry.arrived
        life = entry.attempts[-1].life if entry.attempts else None
        if life is None:
            return found
        phases = Phases.of(life)
        times = {
            "gen_ai.latency.time_in_queue": phases.queue_s,
            "gen_ai.latency.time_in_model_prefill": phases.prefill_s,
            "gen_ai.latency.time_in_model_decode": phases.decode_s,
            "gen_ai.latency.time_in_model_inference": phases.inference_s,
        }
        found |= {name: seconds for name, seconds in times.items() if seconds is not None}
        lenders = {moment.instance for moment in life.moments if moment.what == "borrowed"}
        return found | {
            "lendkv.instance": entry.attempts[-1].instance,
            "lendkv.borrowed_blocks": amount(life, "borrowed"),
            "lendkv.lenders": sorted(lenders),
            "lendkv.remote_ms": 1e3 * sum(life.trip_s.values()),
            "lendkv.recomputed_tokens": entry.report.recomputed_tokens if entry.report else 0,
        }
