"""Instances and donors join a running cluster, answer, lend, and leave without disturbing it."""

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from command import GUARD_S, Command
from tiny_checkpoint import PROMPT, byte_tokenizer, prompt_ids
from tiny_models import reference_tokens

KEY = "a key that only members know"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def cluster(recipe, *overrides, processes=0):
    """One serving instance, or several under torchrun; (the command, HTTP port, where to join)."""
    http, control = free_port(), free_port()
    command = Command(
        "serve",
        recipe,
        f"instances={processes or 1}",
        f"serve.port={http}",
        f"cluster.port={control}",
        "serve.model_name=tiny",
        "attention.options.wait_s=20",
        *overrides,
        processes=processes,
        LENDKV_KEY=KEY,
    )
    try:
        command.wait_until(lambda: ready(http) == list(range(processes or 1)))
        yield command, http, f"cluster.join=127.0.0.1:{control}"
        if processes:  # torchrun itself tells a SIGTERM with a traceback
            for supervisor in command.supervisors():
                os.kill(supervisor, signal.SIGTERM)
        else:
            command.process.terminate()
        done = command.finish()
        assert done.status == 0, done.err
        assert "Traceback" not in done.err
    finally:
        command.process.kill()


def joining(recipe, where, *overrides, key=KEY):
    fixed = ("instances=1", "serve.model_name=tiny", where)
    return Command("serve", recipe, *fixed, *overrides, LENDKV_KEY=key)


def fetch(port, path, body=None):
    data = json.dumps(body).encode() if body else None
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
    with urllib.request.urlopen(request, timeout=GUARD_S) as answer:
        return answer.read().decode()


def cards(port):
    """What the gateway sees of the instances that it may use or not."""
    with suppress(OSError):
        return json.loads(fetch(port, "/health"))["instances"]
    return []


def ready(port):
    return sorted(card["instance"] for card in cards(port) if card["ready"])


def complete(port):
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 16, "temperature": 0}
    body["ignore_eos"] = True
    return json.loads(fetch(port, "/v1/completions", body))["choices"][0]["text"]


def expected(recipe):
    return byte_tokenizer().decode(reference_tokens(recipe.parent / "model", prompt_ids(), 16))


def comm_of(pid):
    return Path(f"/proc/{pid}/comm").read_text().strip()


def evacuate(instance, where, key=KEY):
    return Command("evacuate", instance, where, LENDKV_KEY=key).finish()


def test_an_instance_joins_answers_and_leaves(recipe):
    with cluster(recipe, "pool.num_blocks=64") as (server, http, where):
        own = free_port()
        late = joining(recipe, where, "pool.num_blocks=64", f"serve.instance_port={own}")
        late.wait_until(lambda: ready(http) == [0, 1])
        late.wait_until(lambda: ready(own) == [1])
        assert complete(own) == expected(recipe)
        done = evacuate(1, where)
        assert done.status == 0, done.err
        assert "instance 1 has left" in done.out
        gone = late.finish()
        assert gone.status == 0, gone.err
        assert "Traceback" not in gone.err
        assert f"instance 1 joins the cluster at {where.partition('=')[2]}\n" in gone.out
        server.wait_until(lambda: ready(http) == [0])
        assert complete(http) == expected(recipe)


def test_a_new_planner_gives_no_number_a_second_time(recipe):
    """It hears nothing of who has left, or is silent: its supervisor remembers for it."""
    with cluster(recipe) as (server, http, where):
        donor = joining(recipe, where, "cluster.donor=true")
        donor.wait_until(lambda: [card["instance"] for card in cards(http)] == [0, 1])
        assert evacuate(1, where).status == 0
        assert donor.finish().status == 0
        [planner] = [pid for pid in server.pids() if comm_of(pid) == "lendkv-planner"]
        os.kill(planner, signal.SIGKILL)
        late = joining(recipe, where, "cluster.donor=true")
        late.wait_until(lambda: [card["instance"] for card in cards(http)] == [0, 2])
        assert evacuate(2, where).status == 0
        assert late.finish().status == 0


def test_a_donor_lends_and_leaves(recipe):
    with cluster(recipe, "pool.num_blocks=24") as (server, http, where):
        donor = joining(recipe, where, "cluster.donor=true", "pool.num_blocks=40")
        donor.wait_until(lambda: [card["blocks"] for card in cards(http)] == [24, 40])
        assert ready(http) == [0]
        assert complete(http) == expected(recipe)  # needs more blocks than instance 0 has
        done = evacuate(1, where)
        assert done.status == 0, done.err
        gone = donor.finish()
        assert gone.status == 0, gone.err
        assert "Traceback" not in gone.err
        server.wait_until(lambda: [card["instance"] for card in cards(http)] == [0])


@pytest.mark.parametrize(
    ("pool", "local", "host_blocks"),
    [("device", "native", 0), pytest.param("tiered", "tiered", 4, marks=pytest.mark.nightly)],
)
def test_a_donor_holds_half_of_the_keys_of_an_instance_on_a_device(
    recipe, pool, local, host_blocks
):
    """33 blocks, 16 of them at home, and no lender but the donor, which has host memory."""
    settings = (
        f"pool.name={pool}",
        "pool.options.device=cpu",
        f"attention.options.local={local}",
        f"pool.num_blocks={16 - host_blocks}",
        f"pool.lending.host_blocks={host_blocks}",
        "pool.lending.lend_fraction=0",
    )
    with cluster(recipe, *settings, processes=2) as (server, http, where):
        donor = joining(recipe, where, "cluster.donor=true", "pool.num_blocks=40")
        donor.wait_until(lambda: [card["blocks"] for card in cards(http)] == [16, 16, 40])
        assert complete(http) == expected(recipe)
        server.wait_until(lambda: [card["lent"] for card in cards(http)] == [0, 0, 0])
        donor.process.terminate()
        gone = donor.finish()
        assert gone.status == 0, gone.err


def lending(*args):
    return Command("lending", *args, LENDKV_KEY=KEY).finish()


def test_an_instance_lends_nothing_while_an_operator_says_so(recipe):
    with cluster(recipe, "pool.num_blocks=24", "scheduler.sure_s=0.1") as (_, http, where):
        donor = joining(recipe, where, "cluster.donor=true", "pool.num_blocks=40")
        donor.wait_until(lambda: [card["blocks"] for card in cards(http)] == [24, 40])
        assert complete(http) == expected(recipe)  # needs more blocks than instance 0 has
        done = lending(1, "off", where)
        assert done.status == 0, done.err
        assert "instance 1 lends nothing; 0 of 40 blocks are lent" in done.out
        [pool] = [pid for pid in donor.pids() if comm_of(pid) == "lendkv-pool"]
        os.kill(pool, signal.SIGKILL)  # its supervisor remembers what was said
        donor.wait_until(lambda: "lends nothing" in lending(where).out.splitlines()[-1])
        with pytest.raises(urllib.error.HTTPError) as refused:
            complete(http)
        assert refused.value.code == 400
        refused.value.close()
        done = lending(1, "on", where)
        assert "instance 1 lends; 0 of 40 blocks are lent, 36 more may be" in done.out
        assert complete(http) == expected(recipe)
        donor.process.terminate()  # it leaves by itself
        assert donor.finish().status == 0
        for args, said in (((7, "off"), "instance 7 is not a member"), ((1, "of"), "on or off")):
            done = lending(*args, where)
            assert done.status == 2
            assert said in done.sentences[0]


def test_who_does_not_fit_is_refused_with_the_reason(recipe):
    with cluster(recipe) as (_, http, where):
        for command, said in (
            (joining(recipe, where, key="another key, as long"), "has another cluster key"),
            (joining(recipe, where, key=""), "cluster.join needs the key"),
            (joining(recipe, where, "pool.block_tokens=16"), "use the same model, model.dtype"),
        ):
            done = command.finish()
            assert done.status == 2, done.err
            assert len(done.sentences) == 1
            assert said in done.sentences[0]
            assert "Traceback" not in done.err
        for args, said in (
            ((1, where), "instance 1 is not a member; members are: 0"),
            ((0, where, "another key, as long"), "has another cluster key"),
            ((0, "cluster.host=127.0.0.1", KEY), "evacuate needs a running cluster"),
        ):
            done = evacuate(*args)
            assert done.status == 2, done.err
            assert said in done.sentences[0]
        assert ready(http) == [0]
