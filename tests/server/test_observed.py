"""What a true server shows of itself while a request borrows: ``/cluster``, ``/metrics``."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from served import ROOT, Server, ids_of, make_chatting_checkpoint

from engine.server.metric_table import TABLE, markdown, sample_name

PROMPT = ids_of("borrowed " * 33)
ANSWER = 200


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two instances; each pool holds 384 tokens."""
    model = make_chatting_checkpoint(tmp_path_factory.mktemp("served") / "model")
    slowly = "callbacks=[tests.server.slow_steps:SlowSteps]"
    with Server(model, 2, "pool.num_blocks=48", "attention.options.way=query", slowly) as server:
        yield server
    assert "Traceback" not in server.said


def look(server):
    return server.http.get("/cluster").json()


def test_a_borrowing_request_is_seen_from_both_sides(server):
    stream = server.openai.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=ANSWER, temperature=0, stream=True
    )
    first = next(stream)
    seen = {}

    def is_lent():
        seen.update(look(server))
        ledger = seen["ledger"]
        return ledger["lent"] and ledger["lent"] == ledger["borrowed"] and seen["requests"]

    server.wait_until(is_lent)
    [request] = seen["requests"]
    owner = request["instance"]
    [loan] = seen["ledger"]["loans"]
    assert (loan["debtor"], loan["creditor"]) == (owner, 1 - owner)
    assert loan["lent"] == loan["borrowed"] == seen["ledger"]["lent"]
    debtor, creditor = seen["instances"][owner], seen["instances"][1 - owner]
    assert debtor["borrowed_from"] == {str(1 - owner): loan["borrowed"]}
    assert creditor["lent_to"] == {str(owner): loan["lent"]}
    assert creditor["free"] + creditor["lent"] + creditor["used"] <= creditor["blocks"] == 48
    assert request["id"] == first.id
    server.asked = first.id
    running = server.http.get(f"/cluster/requests/{first.id}").json()
    assert (running["state"], running["finish_reason"]) == ("running", None)
    assert {"borrowed", "first_token"} <= {m["what"] for m in running["attempts"][0]["moments"]}
    assert request["prompt_tokens"] == len(PROMPT)
    assert request["attempt"] == 1
    assert request["age_s"] > 0
    for _ in stream:
        pass

    def is_over():
        seen.update(look(server))
        return not seen["requests"] and not seen["ledger"]["loans"]

    server.wait_until(is_over)
    assert seen["ledger"] == {"lent": 0, "borrowed": 0, "loans": []}
    assert seen["block_tokens"] == 8
    assert seen["rates"].keys() == {"output_tokens_per_s", "ttft_s"}


def test_each_instances_own_port_shows_the_same_ledger(server):
    found = {}

    def is_over():
        found.update(server.http.get(f"http://127.0.0.1:{server.port + 1}/cluster").json())
        return found["instances"] and not found["ledger"]["loans"]

    server.wait_until(is_over)  # it looks by itself, perhaps a moment later
    assert found["ledger"] == {"lent": 0, "borrowed": 0, "loans": []}
    assert [one["id"] for one in found["instances"]] == [0]


def scrape(server):
    """Sample name -> [(labels, value)]."""
    found = {}
    for family in text_string_to_metric_families(server.http.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(found, name, **labels):
    chosen = [v for of, v in found[name] if labels.items() <= of.items()]
    return sum(chosen)


def test_what_was_counted_is_what_happened(server):
    """All of the request above, which was the only one so far."""
    found = {}

    def is_told():
        """What steps and pools count travels with their next words."""
        found.update(scrape(server))
        is_reported = total(found, "vllm:request_queue_time_seconds_count") == 1
        num_computed = total(found, "vllm:iteration_tokens_total_sum")
        # each token but the last was computed once
        is_all = num_computed == len(PROMPT) + ANSWER - 1
        num_granted = total(found, "lendkv:loans_granted_total")
        are_granted = num_granted >= total(found, "lendkv:loans_taken_total") > 0
        is_settled = total(found, "lendkv:ledger_difference_blocks") == 0
        return is_reported and is_all and are_granted and is_settled

    server.wait_until(is_told)
    assert total(found, "vllm:generation_tokens_total") == ANSWER
    assert total(found, "vllm:prompt_tokens_total") == len(PROMPT)
    assert total(found, "vllm:prompt_tokens_cached_total") == 0
    queries = total(found, "vllm:external_prefix_cache_queries_total")
    assert queries == total(found, "vllm:prefix_cache_queries_total")
    assert total(found, "vllm:request_params_n_sum") == 1
    assert total(found, "vllm:request_success_total", finished_reason="length") == 1
    assert total(found, "vllm:time_to_first_token_seconds_count") == 1
    assert total(found, "vllm:e2e_request_latency_seconds_count") == 1
    assert total(found, "vllm:inter_token_latency_seconds_count") == ANSWER - 1
    assert total(found, "vllm:request_generation_tokens_sum") == ANSWER
    assert total(found, "vllm:request_prefill_kv_computed_tokens_sum") == len(PROMPT)
    assert total(found, "lendkv:recompute_tokens_total") == 0
    phases = [total(found, f"vllm:request_{name}_time_seconds_sum") for name in PHASES]
    assert phases[0] + phases[1] == pytest.approx(phases[2])
    whole = total(found, "vllm:e2e_request_latency_seconds_sum")
    assert 0 < phases[2] < whole + 0.1

    owner = next(of["engine"] for of, v in found["lendkv:loans_taken_total"] if v)
    other = str(1 - int(owner))
    borrowed = total(found, "lendkv:blocks_borrowed_total", engine=owner)
    assert total(found, "lendkv:loans_granted_total", engine=other) >= 1
    assert 0 < total(found, "lendkv:blocks_moved_total", engine=owner) <= borrowed
    assert total(found, "lendkv:remote_block_reads_total", engine=owner) > ANSWER
    assert total(found, "lendkv:remote_partial_seconds_count", engine=owner) > 50
    assert total(found, "lendkv:query_bytes_total", engine=owner) > 0
    assert total(found, "lendkv:memory_relief_total", means="loans") >= 1
    assert total(found, "lendkv:ledger_difference_blocks") == 0
    assert total(found, "lendkv:pool_blocks") == 96


def explained(server, request_id, *options):
    command = [sys.executable, "-m", "engine", "explain", request_id, *options]
    command += [f"serve.port={server.port}"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


STORY = """\
ID: ended by length, after TIME
  297 prompt tokens, 200 of at most 200 answer tokens
  first token after TIME, then one every TIME
  attempt 1, at instance 0, from TIME on, behind 0 tokens
    TIME  joined the queue, behind 0 others
    TIME  began to run, with 38 blocks of its own
    TIME  computed 297 tokens of the prompt in 10 steps, until TIME
    TIME  gave its first token
    TIME  borrowed 4 blocks of instance 1
    TIME  moved 4 blocks to instance 1
    TIME  borrowed 4 blocks of instance 1
    TIME  moved 4 blocks to instance 1
    TIME  borrowed 4 blocks of instance 1
    TIME  moved 4 blocks to instance 1
    TIME  borrowed 4 blocks of instance 1
    TIME  moved 4 blocks to instance 1
    TIME  ended
    asked instance 1 for partials, TIME in all from question to answer, own work meanwhile
  its blocks were held by instance: 46 by 0, 16 by 1
"""


def test_explain_tells_the_life_of_the_request(server):
    told = explained(server, server.asked)
    assert not told.stderr
    text = told.stdout.replace(server.asked, "ID")
    text = re.sub(r"\d+\.\d+ m?s\b", "TIME", text)
    text = re.sub(r"(moved.*), until TIME", r"\1", re.sub(r" {5,}TIME", "    TIME", text))
    assert text == STORY
    found = json.loads(explained(server, server.asked, "--json").stdout)
    assert found["id"] == server.asked
    assert found["blocks"] == {"0": 46, "1": 16}
    [attempt] = found["attempts"]
    assert attempt["asked_s"].keys() == {"1"}
    assert attempt["queue_s"] + attempt["prefill_s"] <= found["ttft_s"] + 0.1
    missing = explained(server, "cmpl-nobody")
    assert missing.returncode != 0
    assert "There is no request 'cmpl-nobody'" in missing.stderr
    assert "Traceback" not in missing.stderr


PHASES = ("prefill", "decode", "inference")


def test_every_metric_is_exported_and_documented(server):
    found = scrape(server)
    for metric in TABLE:
        name = sample_name(metric)
        shown = f"{name}_bucket" if metric.kind == "histogram" else name
        if metric.name == "lendkv:debt_blocks":  # only while somebody owes
            continue
        assert shown in found, shown
        assert all(metric.labels[-1] in of for of, _ in found[shown])
    assert markdown() in (ROOT / "docs/metrics.md").read_text()


def test_dashboards_and_alerts_ask_for_what_there_is(server):
    exported = {*scrape(server), "lendkv:debt_blocks"}
    boards = sorted((ROOT / "dashboards").glob("*.json"))
    panels = [panel for board in boards for panel in json.loads(board.read_text())["panels"]]
    rules = yaml.safe_load((ROOT / "dashboards/alerts.yml").read_text())["groups"][0]["rules"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    asked += [rule["expr"] for rule in rules]
    named = {name for expr in asked for name in re.findall(r"(?:vllm|lendkv):\w+", expr)}
    assert len(boards) == 3
    assert len(rules) == 10
    assert named - exported == set()
    unseen = {sample_name(metric) for metric in TABLE} - {n.removesuffix("_bucket") for n in named}
    assert unseen == {"vllm:cache_config_info"}
    scrapes = yaml.safe_load((ROOT / "dashboards/prometheus.yml").read_text())
    assert scrapes["rule_files"] == ["alerts.yml"]
    assert scrapes["scrape_configs"][0]["job_name"] == "lendkv"
