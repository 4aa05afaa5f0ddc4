"""``lendkv bench serve`` against a true server: figures, files, pictures, mistakes, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "server"))

from served import POSITIONS, ROOT, Server, make_chatting_checkpoint

KEYS = {
    *("date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts"),
    *("request_rate", "burstiness", "max_concurrency", "duration", "completed", "failed"),
    *("total_input_tokens", "total_output_tokens", "request_throughput", "request_goodput"),
    *("output_throughput", "total_token_throughput", "max_output_tokens_per_s"),
    *("max_concurrent_requests", "p99_send_delay_ms"),
    *(
        f"{statistic}_{metric}_ms"
        for statistic in ("mean", "median", "std", "p99")
        for metric in ("ttft", "tpot", "itl", "e2el")
    ),
}
DETAILS = {
    *("input_lens", "output_lens", "start_times", "ttfts", "itls", "latencies"),
    *("generated_texts", "errors"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = make_chatting_checkpoint(tmp_path_factory.mktemp("bench") / "model")
    server = Server(model, 2)
    server.wait_until(server.ready)
    yield server
    assert server.stop() == ""


def command(server, *arguments):
    begin = [sys.executable, "-m", "engine", "bench", "serve", "--base-url", server.url]
    return [*begin, "--tokenizer", str(server.model), *arguments]


def bench(server, *arguments):
    return subprocess.run(
        command(server, *arguments), capture_output=True, text=True, cwd=ROOT, check=False
    )


SMALL = ("--random-input-len", "20", "--random-output-len", "8")


def test_a_run_prints_and_writes_what_vllms_does(server, tmp_path):
    options = ["--num-prompts", "12", "--request-rate", "200", "--burstiness", "0.5", *SMALL]
    options += ["--random-range-ratio", "0.5", "--random-prefix-len", "4", "--max-concurrency", "6"]
    options += ["--num-warmups", "2", "--goodput", "ttft:60000", "e2el:120000"]
    options += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99"]
    options += ["--save-result", "--save-detailed", "--result-dir", str(tmp_path / "new")]
    options += ["--result-filename", "run.json", "--metadata", "version=7", "--label", "mine"]
    done = bench(server, *options, "--plot", "--plot-timeline")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    titles = [
        "============ Serving Benchmark Result ============",
        "Successful requests:                     12",
        "Failed requests:                         0",
        "Maximum request concurrency:             6",
        "Request rate configured (RPS):           200.00",
        "Benchmark duration (s):",
        "Total input tokens:",
        "Total generated tokens:",
        "Request throughput (req/s):",
        "Request goodput (req/s):",
        "Output token throughput (tok/s):",
        "Peak output token throughput (tok/s):",
        "Peak concurrent requests:",
        "Total token throughput (tok/s):",
        "---------------Time to First Token----------------",
        "Mean TTFT (ms):",
        "Median TTFT (ms):",
        "P50 TTFT (ms):",
        "P99 TTFT (ms):",
        "-----Time per Output Token (excl. 1st token)------",
        "P99 TPOT (ms):",
        "---------------Inter-token Latency----------------",
        "P99 ITL (ms):",
        "----------------End-to-end Latency----------------",
        "P99 E2EL (ms):",
        "==================================================",
    ]
    at = 0
    for title in titles:
        at = done.stdout.index(title, at)

    body = json.loads((tmp_path / "new" / "run.json").read_text())
    assert body.keys() == KEYS | DETAILS | {"version", *(f"p50_{m}_ms" for m in METRICS)}
    assert (body["completed"], body["failed"], body["model_id"]) == (12, 0, "tiny")
    assert body["request_goodput"] == body["request_throughput"] > 0
    assert sum(body["output_lens"]) == body["total_output_tokens"]
    assert sum(body["input_lens"]) == body["total_input_tokens"]
    assert all(4 + 10 <= length <= 4 + 30 for length in body["input_lens"])
    assert all(4 <= length <= 12 for length in body["output_lens"])
    assert body["max_concurrent_requests"] <= 6
    for ttft, itls, latency in zip(body["ttfts"], body["itls"], body["latencies"], strict=True):
        assert ttft > 0
        assert ttft + sum(itls) == pytest.approx(latency)
    for name in ("run.png", "run.timeline.png"):
        assert (tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG")


METRICS = ("ttft", "tpot", "itl", "e2el")


def test_chats_from_a_file_and_the_same_seed_gives_the_same_answers(server, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "hello"}\n{"prompt": "good bye", "output_tokens": 5}\n')
    options = ["--backend", "openai-chat", "--dataset-name", "custom", "--dataset-path", str(path)]
    options += ["--num-prompts", "4", "--custom-output-len", "6", "--ignore-eos"]
    texts = []
    for name in ("a.json", "b.json"):
        files = ["--save-detailed", "--result-dir", str(tmp_path), "--result-filename", name]
        done = bench(server, *options, *files)
        assert done.returncode == 0, done.stderr
        body = json.loads((tmp_path / name).read_text())
        assert sorted(body["output_lens"]) == [5, 5, 6, 6]
        assert min(body["input_lens"]) > len("hello")  # the server's count, template and all
        texts.append(body["generated_texts"])
    assert texts[0] == texts[1]
    assert body["request_rate"] == "inf"
    assert body["request_goodput"] is None


def test_a_trace_is_replayed_at_its_times(server, tmp_path):
    path = tmp_path / "trace.csv"
    rows = ["0.0,12,3", "0.4,5,2", f"0.5,{POSITIONS},2", "0.6,9,4"]
    path.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]))
    options = ["--dataset-name", "timed_trace", "--dataset-path", str(path), "--save-detailed"]
    done = bench(server, *options, "--result-dir", str(tmp_path), "--result-filename", "t.json")
    assert done.returncode == 0, done.stderr
    assert f"1 requests are left out: longer than the server's {POSITIONS} tokens." in done.stdout
    body = json.loads((tmp_path / "t.json").read_text())
    assert (body["input_lens"], body["output_lens"]) == ([12, 5, 9], [3, 2, 4])
    assert all(at >= due for at, due in zip(body["start_times"], (0.0, 0.4, 0.6), strict=True))


def test_what_the_server_refuses_is_told(server):
    done = bench(server, *SMALL, "--num-prompts", "3", "--extra-body", '{"temperature": -1}')
    assert done.returncode == 1
    assert "Failed requests:                         3" in done.stdout
    assert "3 failed: HTTP 400: temperature: " in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "gpt-9"], "--model 'gpt-9' is not at {url}; there is tiny"),
        (["--tokenizer", "/no/such"], "no tokenizer at '/no/such'; say --tokenizer"),
        (["--random-input-len", "2000"], "are longer than the server's 1024 tokens"),
        (["--base-url", "http://127.0.0.1:1/v1"], "no server answers at http://127.0.0.1:1: Conn"),
        (
            [*SMALL, "--num-prompts", "1", "--save-result", "--result-dir", "/proc/no"],
            "the result cannot be written to /proc/no",
        ),
    ],
)
def test_mistakes_end_as_one_sentence(server, arguments, said):
    done = bench(server, *arguments)
    assert done.returncode == 2
    assert said.format(url=server.url) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_ctrl_c_prints_the_result_so_far(server, tmp_path):
    options = [*SMALL, "--num-prompts", "500", "--request-rate", "10", "--save-result"]
    options += ["--result-dir", str(tmp_path), "--result-filename", "so_far.json"]
    aborted, ended = server.num_aborted(), server.metric("vllm:request_success_total")
    process = subprocess.Popen(
        command(server, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    server.wait_until(lambda: server.metric("vllm:request_success_total") > ended)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err == b""
    body = json.loads((tmp_path / "so_far.json").read_text())
    assert 1 <= body["completed"] < 500
    assert f"Interrupted: {body['completed']} of 500 requests".encode() in out
    server.wait_until(server.idle)
    assert server.num_aborted() >= aborted
