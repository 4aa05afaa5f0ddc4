"""The true command with a tiny model: real processes are struck, and no token is wrong."""

import json
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "launch"))

from command import Command
from tiny_checkpoint import PROMPT, make_tiny_checkpoint


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos")
    model = make_tiny_checkpoint(folder / "model", max_positions=2048)
    (folder / "text.txt").write_text(PROMPT * 4)
    path = folder / "recipe.yaml"
    path.write_text(
        "instances: 3\n"
        f"model: {{path: {model}, dtype: float32, bits: schedule}}\n"
        "attention: {name: dist, options: {wait_s: 1.0}}\n"
        "pool: {num_blocks: 24, sizes: [24, 60, 24], block_tokens: 8, lending: {keep_blocks: 24}}\n"
        "transport: {name: tcp}\n"
        "scheduler: {max_step_tokens: 32, grow_blocks: 1, lease_s: 2.0}\n"
        "chaos: {prompt_file: text.txt, contexts: 2, long_tokens: 160, short_tokens: 24,\n"
        "        max_tokens: 64, seconds: 25, every_s: 5}\n"
    )
    return path


def test_no_token_is_wrong_and_no_request_fails(recipe):
    kinds = "chaos.kinds=[kill,freeze,partition]"
    done = Command("chaos", recipe, kinds, "chaos.seed=3", "--json").finish()
    assert done.status == 0, done.out + done.err
    facts = json.loads(done.out)
    assert facts["wrong_tokens"] == facts["failed_requests"] == 0
    assert facts["finished"] == facts["requests"] >= 10
    assert sum(facts["faults"].values()) == 5
    assert not facts["faults_missed"]
    assert facts["loans"] > 0
    assert facts["tracebacks"] == 0
    assert facts["oracle"] == "identical"


def test_where_several_answers_are_right_each_is_judged_afterwards(recipe):
    other = ("model.bits=any", "model.dtype=bfloat16")
    short = ("chaos.kinds=[kill,freeze]", "chaos.seconds=10", "chaos.seed=3", "--json")
    done = Command("chaos", recipe, *other, *short).finish()
    assert done.status == 0, done.out + done.err
    facts = json.loads(done.out)
    assert facts["oracle"] == "teacher-forced"
    assert facts["wrong_tokens"] == facts["failed_requests"] == 0
    assert facts["finished"] == facts["requests"] >= 5
    assert sum(facts["faults"].values()) == 2


def test_ctrl_c_ends_all_that_was_started(recipe):
    command = Command("chaos", recipe, "chaos.seconds=300")
    command.wait_until(lambda: len(command.supervisors()) == 3)
    time.sleep(2.0)
    command.process.send_signal(signal.SIGINT)
    done = command.finish()
    assert done.status == 130
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("chaos.secnds=3", "did you mean 'seconds'?"),
        ("chaos.kinds=[kil]", "choose from kill, freeze"),
        ("chaos.every_s=1", "must be at least 5"),
        ("transport.name=shm", "set transport.name=tcp"),
        ("pool.sizes=[24,60000000,24]", "MiB of memory"),
        ("chaos.long_tokens=1900", "give a longer text"),
        ("chaos.prompt_file=nowhere.txt", "cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence(recipe, override, words):
    done = Command("chaos", recipe, override).finish()
    assert done.status == 2
    assert len(done.sentences) == 1
    assert words in done.sentences[0]
    assert "Traceback" not in done.err
