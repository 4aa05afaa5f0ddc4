"""The options of ``lendkv bench serve``, named as users of ``vllm bench serve`` know them."""

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

METRICS = ("ttft", "tpot", "itl", "e2el")


def _option(default: Any, text: str, **argument: Any) -> Any:
    return field(default=default, metadata={"help": text, **argument})


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """One field an option: ``--its-name``. Lengths are tokens, rates requests a second."""

    backend: Literal["openai", "openai-chat", "vllm"] = _option(
        "openai", "openai and vllm send completions, openai-chat chats"
    )
    base_url: str = _option("", "the server, such as http://127.0.0.1:8000; else --host, --port")
    host: str = _option("127.0.0.1", "the server's")
    port: int = _option(8000, "the server's")
    endpoint: str = _option("", "the route, where it is not the backend's usual one")
    header: tuple[str, ...] = _option((), "KEY=VALUE for each request", metavar="KEY=VALUE")
    model: str = _option("", "as the server calls it; left out: the first that it lists")
    tokenizer: str = _option("", "a folder, a .gguf file or smollm2; left out: the model's name")

    dataset_name: Literal["random", "prefix_repetition", "custom", "timed_trace"] = _option(
        "random", "what is sent"
    )
    dataset_path: str = _option("", "of custom (JSONL) and timed_trace (CSV, JSONL); may be .gz")
    num_prompts: int = _option(1000, "requests, warm-ups apart")
    disable_shuffle: bool = _option(False, "take a custom file's prompts in its order")
    seed: int = _option(0, "of prompts, lengths and arrival times")
    input_len: int = _option(0, "for random, instead of its own option")
    output_len: int = _option(0, "for every dataset, instead of its own")
    random_input_len: int = _option(1024, "tokens of each prompt")
    random_output_len: int = _option(128, "tokens of each answer")
    random_range_ratio: float = _option(0.0, "lengths are uniform in (1 - R, 1 + R) times theirs")
    random_prefix_len: int = _option(0, "a prefix that all share, in front of --random-input-len")
    prefix_repetition_prefix_len: int = _option(256, "tokens that prompts begin with alike")
    prefix_repetition_suffix_len: int = _option(256, "tokens of each prompt behind them")
    prefix_repetition_num_prefixes: int = _option(10, "different beginnings")
    prefix_repetition_output_len: int = _option(128, "tokens of each answer")
    custom_output_len: int = _option(256, 'where a line says no "output_tokens"')
    self_timed: bool = _option(False, "keep a trace's times (as without --request-rate)")
    timed_trace_sec_multiplier: float = _option(
        0.0, "seconds in a unit of the trace's times (1 for arrival_s, 0.001 for timestamp)"
    )
    timed_trace_chunk_hash_size: int = _option(512, "prompt tokens that one of hash_ids stands for")

    request_rate: float = _option(math.inf, "inf sends all at once")
    burstiness: float = _option(1.0, "shape of the gamma distributed gaps; 1: a Poisson process")
    ramp_up_strategy: Literal["", "linear", "exponential"] = _option(
        "", "a rate that grows, instead of --request-rate"
    )
    ramp_up_start_rps: float = _option(0.0, "requests a second at first")
    ramp_up_end_rps: float = _option(0.0, "requests a second at last")
    max_concurrency: int = _option(0, "requests under way at most; the others wait here")
    num_warmups: int = _option(0, "requests sent and awaited before, and not counted")
    ready_check_timeout_sec: float = _option(0.0, "how long to wait for the server to answer")

    ignore_eos: bool = _option(False, "go on to the full length; always so where prompts are drawn")
    temperature: float = _option(0.0, "0: the likeliest token, always")
    top_p: float = _option(1.0, "share of the likelihood to choose from")
    top_k: int = _option(0, "so many of the likeliest tokens to choose from; 0: all")
    extra_body: str = _option("", "a JSON object that is put into each request")

    percentile_metrics: str = _option("ttft,tpot,itl", f"shown in full, of {','.join(METRICS)}")
    metric_percentiles: str = _option("99", "such as 50,90,99")
    goodput: tuple[str, ...] = _option(
        (), "objectives in ms, such as ttft:500 tpot:50", metavar="NAME:MS"
    )

    save_result: bool = _option(False, "write the figures into a JSON file")
    save_detailed: bool = _option(False, "the same, with those of each request")
    result_dir: str = _option("", "of files; left out: here")
    result_filename: str = _option("", "of the JSON file; left out: of label, rate, model and time")
    label: str = _option("", "begins the file's name; left out: the backend")
    metadata: tuple[str, ...] = _option((), "KEY=VALUE for the file", metavar="KEY=VALUE")
    plot: bool = _option(False, "write a picture of the distributions (needs matplotlib)")
    plot_timeline: bool = _option(False, "write a picture of each request's time (the same)")
    disable_tqdm: bool = _option(False, "no progress bar")

    @property
    def url(self) -> str:
        """Without /v1, which OpenAI's clients have at the end and vLLM's have not."""
        url = self.base_url or f"http://{self.host}:{self.port}"
        return url.rstrip("/").removesuffix("/v1")

    @property
    def percentiles(self) -> list[float]:
        return [float(text) for text in self.metric_percentiles.split(",")]

    @property
    def objectives(self) -> dict[str, float]:
        """Milliseconds by name."""
        pairs = [text.partition(":") for text in self.goodput]
        return {name: float(value) for name, _, value in pairs}

    @property
    def headers(self) -> dict[str, str]:
        return _pairs(self.header)

    @property
    def facts(self) -> dict[str, str]:
        """``--metadata`` as a table."""
        return _pairs(self.metadata)

    @property
    def body(self) -> dict[str, Any]:
        """What ``--extra-body`` puts into each request."""
        return dict(json.loads(self.extra_body)) if self.extra_body else {}


def add_options(parser: argparse.ArgumentParser) -> None:
    hints = get_type_hints(Options)
    for one in fields(Options):
        hint, extra = hints[one.name], dict(one.metadata)
        if hint is bool:
            extra["action"] = "store_true"
        elif get_origin(hint) is Literal:
            extra["choices"] = [choice for choice in get_args(hint) if choice]
        elif get_origin(hint) is tuple:
            extra["nargs"] = "+"
        else:
            extra["type"] = hint
        shown = one.default not in ("", (), False, 0)
        extra["help"] = f"{extra['help']} (default: {one.default})" if shown else extra["help"]
        parser.add_argument(f"--{one.name.replace('_', '-')}", default=one.default, **extra)


def to_options(args: Mapping[str, Any]) -> Options:
    """From what argparse found."""
    values: dict[str, Any] = {one.name: args[one.name] for one in fields(Options)}
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Options(**values | lists)


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    """Of KEY=VALUE texts."""
    return {key.strip(): value.strip() for key, _, value in (t.partition("=") for t in texts)}
