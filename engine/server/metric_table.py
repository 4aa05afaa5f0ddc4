"""The metrics of a gateway, one row each; docs/metrics.md is this table in words."""

from dataclasses import dataclass
from typing import Literal

from engine.scheduler.pace import GAP_BOUNDS_S

Kind = Literal["gauge", "counter", "histogram"]

MODEL = ("model_name",)
ENGINE = ("model_name", "engine")
PAIR = ("model_name", "debtor", "creditor")

TTFT_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
    *(20, 40, 80, 160, 640, 2560),
)
LATENCY_S = (
    *(0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960),
    *(1920, 7680),
)
PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 40)
TOKENS = tuple(scale * 10**power for power in range(6) for scale in (1, 2, 5))
NUMBERS = (1, 2, 5, 10, 20)
TIMES = (0, 1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ENGINE
    bounds: tuple[float, ...] = ()
    """of a histogram that the gateway keeps itself"""
    source: tuple[str, str] = ("", "")
    """where an instance's report has it: (what of it, the name there); ``*`` is the last label"""
    known: tuple[str, ...] = ()
    """values of the last label that are exported from the start"""


def _step(name: str, text: str, key: str) -> Metric:
    return Metric(f"lendkv:{name}", "counter", text, source=("load.counts", key))


def _pool(name: str, text: str, key: str) -> Metric:
    return Metric(f"lendkv:{name}", "counter", text, source=("beat.counts", f"said:{key}"))


def _blocks(name: str, text: str, key: str) -> Metric:
    return Metric(f"lendkv:{name}", "gauge", text, source=("beat", key))


def _request(name: str, text: str, bounds: tuple[float, ...]) -> Metric:
    return Metric(f"vllm:{name}", "histogram", text, bounds=bounds)


CAUSES = ("preemption", "lost_holder", "recall", "hand_over", "step_lost")
MEANS = ("loans", "host_blocks", "handovers", "preemptions")

TABLE = (
    Metric(
        "vllm:num_requests_running", "gauge", "requests that run", source=("load", "num_running")
    ),
    Metric(
        "vllm:num_requests_waiting",
        "gauge",
        "requests that wait for memory",
        source=("load", "num_waiting"),
    ),
    Metric("lendkv:requests_unplaced", "gauge", "requests that no instance has yet", MODEL),
    Metric("vllm:kv_cache_usage_perc", "gauge", "share (0 to 1) of the own pool that is not free"),
    Metric(
        "vllm:cache_config_info",
        "gauge",
        "1; tokens of a block and blocks of the pool",
        (*ENGINE, "block_size", "num_gpu_blocks"),
    ),
    Metric(
        "vllm:num_preemptions",
        "counter",
        "sequences that stopped, or gave up a block, for want of memory",
        source=("load.relief", "preemptions"),
    ),
    Metric(
        "vllm:prefix_cache_queries",
        "counter",
        "tokens of the sequences that began",
        source=("load.reuse", "queries"),
    ),
    Metric(
        "vllm:prefix_cache_hits",
        "counter",
        "of these, those whose keys the own pool had cached",
        source=("load.reuse", "hits_own"),
    ),
    Metric(
        "vllm:external_prefix_cache_queries",
        "counter",
        "of these, those whose keys the own pool had not cached",
    ),
    Metric(
        "vllm:external_prefix_cache_hits",
        "counter",
        "of these, those whose keys other instances had cached",
        source=("load.reuse", "hits_other"),
    ),
    Metric(
        "lendkv:cached_blocks_evicted",
        "counter",
        "cached blocks that were reclaimed",
        source=("beat", "num_evicted"),
    ),
    Metric("vllm:prompt_tokens", "counter", "prompt tokens of requests whose first token came"),
    Metric("vllm:prompt_tokens_cached", "counter", "of these, those whose keys had been cached"),
    Metric("vllm:generation_tokens", "counter", "tokens that came"),
    Metric(
        "vllm:request_success",
        "counter",
        "requests that ended without an error",
        (*ENGINE, "finished_reason"),
        known=("stop", "length", "abort"),
    ),
    _request("time_to_first_token_seconds", "from arrival to the first token", TTFT_S),
    Metric(
        "vllm:inter_token_latency_seconds",
        "histogram",
        "between two tokens of a request, at the gateway",
        bounds=GAP_BOUNDS_S,
    ),
    _request(
        "request_time_per_output_token_seconds", "from first to last token, a token", PER_TOKEN_S
    ),
    _request("e2e_request_latency_seconds", "from arrival to the end", LATENCY_S),
    _request("request_queue_time_seconds", "from a step's queue until it ran", LATENCY_S),
    _request("request_prefill_time_seconds", "from then to the first token", LATENCY_S),
    _request("request_decode_time_seconds", "from there to the end", LATENCY_S),
    _request("request_inference_time_seconds", "prefill and decode", LATENCY_S),
    _request("request_prompt_tokens", "tokens of a prompt", TOKENS),
    _request("request_generation_tokens", "tokens of an answer", TOKENS),
    _request("request_params_max_tokens", "most tokens that a request allowed", TOKENS),
    _request("request_params_n", "choices that were asked for of a prompt", NUMBERS),
    _request(
        "request_prefill_kv_computed_tokens", "tokens computed before the first answer", TOKENS
    ),
    _request("request_num_preemptions", "times that a request was preempted", TIMES),
    Metric(
        "vllm:iteration_tokens_total",
        "histogram",
        "tokens that one step computed",
        source=("load.histograms", "step_tokens"),
    ),
    Metric("lendkv:request_failed", "counter", "requests that ended with an error"),
    Metric("lendkv:request_retries", "counter", "attempts of a request after its first"),
    _blocks("pool_blocks", "rBlocks of the pool", "num_blocks"),
    _blocks("free_blocks", "free, or cached and not in use", "num_free"),
    _blocks("used_blocks", "drawn by the own step", "num_used"),
    _blocks("cached_blocks", "kept for their content", "num_cached"),
    _blocks("lent_blocks", "lent to other instances", "num_lent"),
    _blocks("lendable_blocks", "it would lend now", "num_lendable"),
    Metric("lendkv:borrowed_blocks", "gauge", "its sequences have of others"),
    Metric("lendkv:debt_blocks", "gauge", "lent by a creditor to a debtor, in its books", PAIR),
    Metric(
        "lendkv:ledger_difference_blocks",
        "gauge",
        "lent in all, by creditors' books, less borrowed, by debtors'; 0 where nothing changes",
        MODEL,
    ),
    Metric(
        "lendkv:memory_relief",
        "counter",
        "how often its step found memory by each means",
        (*ENGINE, "means"),
        source=("load.relief", "*"),
        known=MEANS,
    ),
    Metric(
        "lendkv:recompute_tokens",
        "counter",
        "tokens computed again, or to be, by what took their keys",
        (*ENGINE, "cause"),
        source=("load.counts", "lost:*.sum"),
        known=CAUSES,
    ),
    _step("loans_taken", "loans that its sequences took", "borrowed"),
    _step("blocks_borrowed", "blocks of these loans", "borrowed.sum"),
    _pool("loans_granted", "reservations that the pool granted", "Granted"),
    _pool("loans_refused", "reservations that the pool refused", "Refused"),
    _pool("recalls", "times that the pool called lent blocks back", "Recall"),
    _step("blocks_recalled", "borrowed blocks that creditors called back", "recalled.sum"),
    _step("blocks_moved", "blocks copied to a creditor", "moved.sum"),
    _step("blocks_returned", "blocks fetched home", "returned.sum"),
    _step("remote_block_reads", "borrowed blocks used where they lie, once a step", "block_reads"),
    _step("query_bytes", "bytes of queries that were sent to holders", "query_bytes"),
    _step("partial_bytes", "bytes of partials that came back", "partial_bytes"),
    _step("kv_bytes_avoided", "bytes that did not have to move instead", "kv_bytes_avoided"),
    Metric(
        "lendkv:remote_partial_seconds",
        "histogram",
        "from a question to its answer; mean of a step's questions to a holder",
        source=("load.histograms", "trip_s"),
    ),
    Metric("lendkv:step_seconds", "histogram", "of a step", source=("load.histograms", "step_s")),
    _step("deadline_misses", "holders that were too late in a step", "missed_deadlines"),
    _step("peers_lost", "pools of others that were lost", "lost_peer"),
    _pool("fences", "times that it refused to answer for blocks that ended", "FencedOff"),
    _pool("busy", "times that it asked others to wait for its own step", "Busy"),
)


def sample_name(metric: Metric) -> str:
    """What Prometheus calls its samples; a histogram's end in _bucket, _sum and _count."""
    return metric.name + ("_total" if metric.kind == "counter" else "")


def markdown() -> str:
    """The table of docs/metrics.md."""
    lines = ["| name | kind | labels beside `model_name` | what |", "|---|---|---|---|"]
    for metric in TABLE:
        labels = ", ".join(f"`{label}`" for label in metric.labels[1:])
        lines.append(f"| `{sample_name(metric)}` | {metric.kind} | {labels} | {metric.text} |")
    return "\n".join(lines) + "\n"
