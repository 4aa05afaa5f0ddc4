"""Protects the performance simulation: the real machines decide, hardware's model alone takes time.

The same recipe gives the same bytes; steps run as one are as if run one by one; nothing is lost.
"""

import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from engine.errors import ConfigError
from engine.scheduler.scheduler import Scheduler
from engine.sim.hardware.model import MODELS
from engine.sim.hardware.profile import profile_of
from engine.sim.hardware.step_time import Keys, StepTime, Work
from engine.sim.serving.cluster import Cluster
from engine.sim.serving.config import ServingConfig, WorkloadConfig
from engine.sim.serving.run import run
from engine.sim.serving.systems import configured, system_of
from engine.sim.serving.workload import Arrival, arrivals
from engine.sim.simulate import simulate

SYSTEMS = ("vllm-multi", "vllm-single", "kv-moving", "ledger", "greedy", "balanced")
TIGHT = ServingConfig(
    instances=3,
    block_tokens=64,
    pool_blocks=120,
    scheduler=Scheduler.Config(max_step_tokens=512, max_num_seqs=32, grow_blocks=1),
    workload=WorkloadConfig(requests=60, prompt_tokens=[32, 6000], output_tokens=[16, 400], rate=6),
)
"""more than a pool holds, less than three"""


def played(config: ServingConfig, name: str, requests: list[Arrival]) -> Cluster:
    """The cluster when all requests are answered."""
    system = system_of(name)
    cluster = Cluster(configured(config, system), system)
    cluster.start(requests)
    cluster.clock.run(3600.0)
    return cluster


def one_by_one(*lengths: tuple[int, int]) -> list[Arrival]:
    return [Arrival(30.0 * at, prompt, output) for at, (prompt, output) in enumerate(lengths)]


@pytest.mark.parametrize("name", SYSTEMS)
def test_all_are_answered_and_all_memory_comes_back(name):
    requests = arrivals(TIGHT.workload, 1)
    cluster = played(TIGHT, name, requests)
    assert sorted(len(one.token_ids) for one in cluster.front.ended) == sorted(
        one.output_tokens for one in requests
    )
    assert not any(one.error for one in cluster.front.ended)
    until = cluster.clock.now + 120.0  # leases end, reports go on
    cluster.clock.run(until)
    for one in cluster.instances:
        one.pool.rmanager.check()
        one.scheduler.roster.check()
        assert one.pool.num_lent == 0
        assert one.pool.num_free == one.pool.num_blocks
        assert len(one.scheduler.debts) == 0
        assert one.strain.load(one.number) == 0.0


def test_lending_happens_where_it_is_wanted():
    found = {name: run(TIGHT, name, arrivals(TIGHT.workload, 1)) for name in SYSTEMS}
    for name in ("kv-moving", "ledger", "greedy", "balanced"):
        assert found[name]["loans"] > 0
        assert max(lent for _, lent, _ in found[name]["lent_over_time"]) > 0
        assert found[name]["moved_blocks"] > 0
    for name in ("vllm-multi", "vllm-single"):
        assert found[name]["loans"] == found[name]["moved_blocks"] == 0


PROGRAM = """
import json, sys
sys.path.insert(0, "tests/sim")
from test_performance import TIGHT
from engine.sim.serving.run import run
from engine.sim.serving.workload import arrivals
print(json.dumps([run(TIGHT, name, arrivals(TIGHT.workload, 5)) for name in ("greedy", "ledger")]))
"""


def test_the_same_seed_gives_the_same_bytes_in_any_process():
    said = []
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.getcwd()}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, check=True
        )
        said.append(done.stdout)
    assert said[0] == said[1]
    assert len(said[0]) > 1000


SCENARIO = ["workload.rate=10", "workload.requests=60", "systems=[balanced]"]
"""docs/simulator.md's, of 10,000 requests there"""


def test_the_published_scenario_gives_the_same_bytes_in_any_process():
    """32 instances with long prompts among short ones, by its command."""
    said = []
    for hash_seed in ("1", "2"):
        command = ["simulate", "recipes/paper/cluster.yaml", *SCENARIO, "--json"]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.getcwd()}
        done = subprocess.run(
            [sys.executable, "-m", "engine", *command],
            env=environment,
            capture_output=True,
            check=True,
        )
        said.append(done.stdout)
    assert said[0] == said[1]
    [found] = json.loads(said[0])
    assert (found["instances"], found["answered"]) == (32, 60)


@pytest.mark.parametrize("name", ["vllm-multi", "vllm-single"])
def test_a_stride_is_as_if_its_steps_were_run_one_by_one(name):
    config = replace(TIGHT, pool_blocks=400)
    requests = arrivals(config.workload, 2)
    strides = run(config, name, requests)
    steps = run(replace(config, strides=False), name, requests)
    assert strides == steps


@pytest.mark.parametrize("name", ["balanced", "ledger"])
def test_with_lending_strides_change_little(name):
    """What a device does for others is felt a step earlier or later."""
    requests = arrivals(TIGHT.workload, 2)
    strides = run(TIGHT, name, requests)
    steps = run(replace(TIGHT, strides=False), name, requests)
    for figure in ("tokens_per_s", "seconds"):
        assert strides[figure] == pytest.approx(steps[figure], rel=0.03)
    assert strides["tpot_s"]["p50"] == pytest.approx(steps["tpot_s"]["p50"], rel=0.05)


def test_a_request_alone_takes_the_time_of_its_steps():
    config = replace(TIGHT, instances=1, pool_blocks=0)
    cluster = played(config, "vllm-multi", [Arrival(0.0, 500, 3)])
    [entry] = cluster.front.ended
    times = StepTime(profile_of("a100-80gb"), MODELS["llama2-7b"], 1)
    prefill = times.of(0, Work(500, 1, Keys(500, 500, 500 * 501 / 2))).seconds
    assert entry.first_token_at == pytest.approx(2 * cluster.control_s + prefill, abs=0.001)
    decodes = [times.of(0, Work(1, 1, Keys(1, n, n))).seconds for n in (501, 502)]
    assert entry.ended_at - entry.first_token_at == pytest.approx(sum(decodes))


def test_a_context_beyond_a_pool_is_refused_or_lent():
    """120 blocks of 64 tokens to a pool: 7680 tokens."""
    requests = one_by_one((500, 20), (15000, 20), (500, 20))
    refused = run(TIGHT, "vllm-multi", requests)
    assert (refused["answered"], refused["refused"]) == (2, 1)
    for name in ("ledger", "greedy", "balanced", "kv-moving"):
        lent = run(TIGHT, name, requests)
        assert (lent["answered"], lent["refused"]) == (3, 0)
        assert lent["longest"] == 15020
    single = run(TIGHT, "vllm-single", requests)
    assert (single["answered"], single["longest"]) == (3, 15020)


def test_moving_the_cache_is_slower_than_moving_the_query_and_slow_links_are_slower():
    requests = one_by_one((15000, 200))
    near = run(TIGHT, "ledger", requests)["tpot_s"]["mean"]
    fetched = run(TIGHT, "kv-moving", requests)["tpot_s"]["mean"]
    changes = {"intra": {"latency_s": 1e-3}}
    far = run(replace(TIGHT, hardware_changes=changes), "ledger", requests)["tpot_s"]["mean"]
    assert near < fetched
    assert far - near == pytest.approx(32 * 2 * 1e-3, rel=0.1)  # a round trip in each layer


def test_holders_feel_what_they_do_for_others():
    """A holder's own decodes are slower while it serves a long context of somebody else."""
    base = replace(TIGHT, instances=2, pool_blocks=1000)
    short = Arrival(60.0, 100, 2000)
    alone = run(base, "ledger", [short])
    long = run(base, "ledger", [Arrival(0.0, 100_000, 8000), short])
    assert long["loans"] > 0
    assert long["tpot_s"]["p50"] > 1.2 * alone["tpot_s"]["p50"]


def test_traces_are_replayed_in_order_with_their_lengths(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n7.5,30,4\n5.0,20,0\n9.0,9000,5\n")
    config = WorkloadConfig(trace=str(trace), max_tokens=1000)
    assert arrivals(config, 0) == [Arrival(0.0, 20, 1), Arrival(2.5, 30, 4)]
    again = [one.at for one in arrivals(replace(config, rate=2.0), 3)]
    assert again == [one.at for one in arrivals(replace(config, rate=2.0), 3)]
    assert again[0] == 0.0 < again[1]
    with pytest.raises(ConfigError, match=r"trace.*No such file"):
        arrivals(WorkloadConfig(trace="nowhere.csv"), 0)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", b"arrival_s,prompt\n1,2\n", "each row needs prompt_tokens"),
        ("a.csv", b"arrival_s,prompt_tokens,output_tokens\n1,2\n", "each row needs"),
        ("a.csv", b"arrival_s,prompt_tokens,output_tokens\nnan,2,2\n", "arrival_s is nan"),
        ("a.csv", b"\xff\xfe", "each row needs"),
        ("a.jsonl", b"[1]\n", "each row needs"),
        ("a.jsonl", b'{"prompt_tokens": Infinity, "output_tokens": 1}\n', "each row needs"),
        ("a.csv.gz", b"no gzip", "Not a gzipped file"),
        ("a.csv.gz", gzip.compress(b"arrival_s\n" * 9, mtime=0)[:20], "ended before"),
        ("a.csv", b"", "not one request is left"),
    ],
)
def test_a_damaged_trace_is_a_sentence(tmp_path, name, text, says):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ConfigError, match=says):
        arrivals(WorkloadConfig(trace=str(tmp_path / name)), 0)


def test_requests_may_choose_their_instance(tmp_path):
    """As with serve.instance_port: it answers them itself, whatever room others have."""
    trace = tmp_path / "trace.csv"
    rows = ["arrival_s,instance,prompt_tokens,output_tokens"]
    rows += [f"{at / 10},{int(at == 3)},3000,20" for at in range(8)]
    trace.write_text("\n".join(rows))
    config = replace(TIGHT, instances=2, workload=WorkloadConfig(trace=str(trace)))
    cluster = played(config, "local_only", arrivals(config.workload, 0))
    assert sorted(one.instance for one in cluster.front.ended) == [0] * 7 + [1]
    assert all(len(one.attempts) == 1 for one in cluster.front.ended)
    trace.write_text("\n".join([*rows, "9,2,10,10"]))
    with pytest.raises(ConfigError, match="instance 2 is none of 0 to 1"):
        played(config, "local_only", arrivals(config.workload, 0))


def test_the_verb_runs_each_system_on_the_same_requests(capsys):
    small = ["mode=performance", "instances=2", "systems=[vllm-multi,balanced]"]
    small += ["workload.requests=4"]
    assert simulate(None, small, json_only=True, trace=False) == 0
    multi, balanced = json.loads(capsys.readouterr().out)
    assert multi["output_tokens"] == balanced["output_tokens"] > 0
    assert simulate(None, small, json_only=False, trace=False) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("system")
    assert [line.split()[0] for line in lines] == ["vllm-multi", "balanced"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("mode=speed", "'speed' is none of faults, performance"),
        ("systems=[vllm]", "unknown system 'vllm'; known: vllm-multi"),
        ("model=gpt-9", "'gpt-9' is neither"),
        ("hardware=tpu", "'tpu' is neither a YAML file nor one of a100-80gb"),
        ("instances=none", "instances"),
        ("kinds=[join]", "kinds"),
        ("model=llama2-70b", "use a larger tp"),
        ("workload.prompt_tokens=[9]", "at least 1 token wanted"),
        ("workload.requests=-1", "requests must be at least 1"),
        ("workload.rate=-1", "at least 0"),
        ("hardware_changes={inter: {bandwidth: .nan}}", "finite number"),
        ("instances=0", "at least 1"),
        ("placement_options={balanced: {price: 1}}", "price"),
    ],
)
def test_mistakes_end_as_a_sentence(wrong, says):
    with pytest.raises(ConfigError, match=says):
        simulate(None, ["mode=performance", wrong], json_only=True, trace=False)
