"""Two hosts, each with a network of its own: instances find each other by what they advertise."""

import json
import os
import subprocess
import sys
from contextlib import suppress

import pytest
from command import GUARD_S, Command
from tiny_checkpoint import PROMPT, byte_tokenizer, prompt_ids
from tiny_models import reference_tokens

ADDRESSES = ("10.77.91.1", "10.77.91.2")
HTTP, CONTROL = 8000, 4711
FETCH = """
import sys, urllib.request
data = sys.argv[2].encode() or None
request = urllib.request.Request(sys.argv[1], data, {"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


@pytest.fixture
def hosts():
    """Names of two network namespaces with a cable between them."""
    names = [f"lendkv-{os.getpid()}-{number}" for number in range(2)]
    try:
        for name in names:
            ip("netns", "add", name)
        ends = ("netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        ip("link", "add", "cable", *ends)
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "cable", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces can be made here: {error}")
    else:
        yield names
    finally:
        for name in names:
            with suppress(OSError, subprocess.CalledProcessError):
                ip("netns", "del", name)


def serve(recipe, hosts, number, *overrides):
    here = ADDRESSES[number]
    fixed = (
        "instances=1",
        "serve.model_name=tiny",
        "attention.options.wait_s=20",
        "transport.name=tcp",
        f"transport.options.host={here}",
        f"cluster.host={here}",
        f"cluster.advertise={here}",
    )
    prefix = ("ip", "netns", "exec", hosts[number])
    return Command(
        "serve", recipe, *fixed, *overrides, prefix=prefix, LENDKV_KEY="a key of members"
    )


def fetch(hosts, path, body=None):
    url = f"http://{ADDRESSES[0]}:{HTTP}{path}"
    words = ["ip", "netns", "exec", hosts[0], sys.executable, "-c", FETCH]
    said = json.dumps(body) if body else ""
    done = subprocess.run([*words, url, said], capture_output=True, text=True, timeout=GUARD_S)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def test_a_context_lies_on_two_hosts(recipe, hosts):
    where = f"{ADDRESSES[0]}:{CONTROL}"
    mine = ("pool.num_blocks=24", f"serve.host={ADDRESSES[0]}", f"serve.port={HTTP}")
    first = serve(recipe, hosts, 0, *mine, f"cluster.port={CONTROL}")
    second = serve(
        recipe, hosts, 1, "pool.num_blocks=40", "cluster.donor=true", f"cluster.join={where}"
    )
    try:

        def blocks():
            return [card["blocks"] for card in fetch(hosts, "/health").get("instances", [])]

        first.wait_until(lambda: blocks() == [24, 40])
        body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 16, "temperature": 0}
        answer = fetch(hosts, "/v1/completions", body | {"ignore_eos": True})
        wanted = reference_tokens(recipe.parent / "model", prompt_ids(), 16)
        assert answer["choices"][0]["text"] == byte_tokenizer().decode(wanted)
        for command in (second, first):
            command.process.terminate()
            done = command.finish()
            assert done.status == 0, done.err
            assert "Traceback" not in done.err
    finally:
        for command in (second, first):
            command.process.kill()
