"""Protects ``lendkv plan``: its arithmetic is that of a person with a pencil, the choice is the
best of what is there, and what cannot be is refused in a sentence that says what can.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.sim.hardware.model import MODELS
from engine.sim.hardware.profile import profile_of
from engine.sim.hardware.step_time import StepTime
from engine.sim.planning.choice import choices, question_of
from engine.sim.planning.config import PlanConfig, completed
from engine.sim.planning.pace import pace_of
from engine.sim.planning.plan import load, plan
from engine.sim.planning.report import device_hours
from engine.sim.planning.room import room_of

MILLION = ("model=llama2-70b", "context=1000000", "devices=32", "simulate=false")
SMALL = (
    *("model=llama2-13b", "devices=4", "workload.requests=6", "workload.rate=2"),
    *("workload.prompt_tokens=[60000,90000]", "workload.output_tokens=[10,20]", "ttft_s=60"),
)


def told(capsys, *given, sweep=False):
    assert plan(None, given, as_json=True, sweep=sweep) == 0
    return json.loads(capsys.readouterr().out)


def test_a_million_tokens_on_32_a100_as_by_hand(capsys):
    """LLaMA2-70B: 80 layers of 8,192, 64 heads and 8 KV heads of 128, an MLP of 28,672."""
    found = told(capsys, *MILLION)
    layer = 2 * (64 + 8) * 128 * 8192 + 3 * 8192 * 28672
    weights = 2 * (80 * layer + 2 * 32000 * 8192)
    token = 80 * 2 * 8 * 128 * 2
    assert (
        (found["weight_bytes"], found["kv_token_bytes"])
        == (weights, token)
        == (
            137_950_658_560,
            327_680,
        )
    )
    assert found["context_bytes"] == 327_680_000_000
    by_tp = {one["tp"]: one for one in found["choices"]}
    assert found["best"]["tp"] == 8
    assert sorted(by_tp) == [4, 8, 16, 32]  # 2 x 72 GB hold the weights and 3 GB of context
    for tp in (4, 8):
        blocks = int((0.9 * 80e9 * tp - weights - 1.5e9 * tp) // (128 * token))
        one = by_tp[tp]
        assert (one["instances"], one["pool_blocks"]) == (32 // tp, blocks)
        assert one["longest_alone"] == 128 * blocks
        assert one["longest_lending"] == 128 * (blocks + (32 // tp - 1) * int(0.9 * blocks))
    assert by_tp[4]["longest_alone"] < 1_000_000 < by_tp[8]["longest_alone"]
    # a token: 80 layers' weights and the keys, read once, and what is told in the profile
    rate = 2.039e12 * 0.85
    read_s = 2 * layer / 8 / rate + 35e-6
    ring_s = 2 * 7 / 8 * 2 * 8192 / (300e9 * 0.8) + 10e-6 * (1 + 3) / 2
    head_s = 2 * 32000 * 8192 / 8 / rate
    keys_s = 1_000_000 * token / 8 / rate
    by_hand = 80 * (read_s + 2 * ring_s) + head_s + 1.5e-3 + keys_s
    assert by_tp[8]["tpot_s"] == pytest.approx(by_hand, rel=1e-6)
    # three contexts of 7,813 blocks in 8 x 3,434, at 512 tokens behind each prompt
    one = by_tp[4]
    assert one["contexts_per_hour"] == pytest.approx(
        3 * 3600 / (one["ttft_s"] + 512 * one["tpot_s"])
    )


def test_the_text_shows_the_arithmetic_and_what_is_which(capsys):
    assert plan(None, MILLION, as_json=False, sweep=False) == 0
    text = capsys.readouterr().out
    for part in (
        "2 x (64 + 8) heads x 128 x 8,192 + 3 x 8,192 x 28,672 = 855,638,016 parameters",
        "80 layers x 2 x 8 heads x 128 x 2 bytes = 327,680 bytes",
        "1,000,000 x 327,680 bytes = 327.68 GB, in 7,813 blocks of 128 tokens",
        "ttft_s=10 cannot be met",
        "names 4,096 positions",
        "[arithmetic]",
        "[hardware model: a100-80gb]",
    ):
        assert part in text
    assert plan(None, [*MILLION, "tp=4"], as_json=False, sweep=False) == 0
    text = capsys.readouterr().out
    assert "7,813 - 3,434 = 4,379 blocks are borrowed, from 2 of 7 others" in text
    assert "32 devices: 8 instances of tp=4" in text


def test_what_cannot_meet_the_objectives_is_not_simulated(capsys):
    """A million tokens of prompt take a quarter of an hour on eight devices."""
    found = told(capsys, *MILLION, "simulate=true", "tp=8")["best"]
    assert "999,488 tokens" in found["unmet"]
    assert "ttft_s=10 is wanted" in found["unmet"]
    assert "goodput_lending" not in found
    assert plan(None, [*MILLION, "simulate=true"], as_json=False, sweep=False) == 0
    assert "goodput 0: the shortest prompt" in capsys.readouterr().out


def test_without_a_number_the_fewest_devices_are_taken(capsys):
    found = told(capsys, "model=llama2-70b", "context=1000000", "simulate=false")["best"]
    assert found["devices"] == 8
    assert found["longest_lending"] >= 1_000_000


@given(
    st.sampled_from(sorted(MODELS)), st.sampled_from([1, 2, 4, 8]), st.integers(1, 16), st.data()
)
def test_pace_never_falls_with_length_and_room_holds_what_it_says(name, tp, instances, data):
    profile, model = profile_of("h200"), MODELS[name]
    try:
        room = room_of(profile, model, tp, instances, 128)
    except ConfigError:
        return
    contexts = st.integers(2, min(room.longest_lending, 200_000))
    short, long = sorted([data.draw(contexts), data.draw(contexts)])
    times = StepTime(profile, model, tp)
    paces = [
        pace_of(times, room, prompt=one - 1, context=one, step_tokens=8192) for one in (short, long)
    ]
    assert paces[0].ttft_s <= paces[1].ttft_s * (1 + 1e-9)
    assert room.lenders(long) <= instances - 1
    own, each = room.own_and_lent(long)
    assert own <= room.pool_tokens
    assert own + each * room.lenders(long) >= long
    assert each <= room.lendable_blocks * room.block_tokens


def test_lending_serves_what_is_refused_without(capsys):
    """LLaMA2-13B: a pool of 54,144 tokens; requests of 60,000 to 90,000."""
    found = told(capsys, *SMALL, "tp=1", "price=2")["best"]
    assert found["longest_alone"] < 60000
    assert found["refused_alone"] == 6
    assert found["goodput_alone"] == 0 < found["goodput_lending"]
    hours = 4 * 1e6 / found["goodput_lending"] / 3600
    assert found["device_hours_per_million"] == pytest.approx(hours)
    assert found["cost_per_million"] == pytest.approx(2 * hours)


def test_the_best_is_the_most_goodput_and_both_are_told(capsys):
    assert plan(None, SMALL, as_json=False, sweep=False) == 0
    text = capsys.readouterr().out
    assert "without lending: goodput" in text
    assert "with lending (balanced): goodput" in text
    assert "device hours a million output tokens" in text
    assert "price=..." in text


def test_a_sweep_is_a_table_and_a_picture(tmp_path, capsys):
    picture = tmp_path / "plan.png"
    given = [*SMALL, "simulate=false", f"sweep.plot={picture}"]
    assert plan(None, given, as_json=False, sweep=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["devices", "1", "2", "4", "8"]
    assert picture.read_bytes()[:4] == b"\x89PNG"
    rows = told(
        capsys, *given, "sweep.over=context", "sweep.values=[50000,90000,9000000]", sweep=True
    )
    assert [row["context"] for row in rows] == [50000, 90000, 9000000]
    assert "at most" in rows[2]["problem"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("sweep.over=contexd sweep.values=[1,2,3]", "contexd=1, 2, 3: .*unknown key 'contexd'"),
        ("sweep.over=tp sweep.values=[3,5] devices=8", "tp=3, 5: tp: 0 .*divides devices=8"),
        ("sweep.over=devices model=gpt-9 sweep.values=[1,2]", "devices=1, 2: .*gpt-9"),
    ],
)
def test_a_mistake_of_all_values_of_a_sweep_is_told_once(given, says):
    with pytest.raises(ConfigError, match=says) as raised:
        plan(None, [*given.split(), "simulate=false", "sweep.plot="], as_json=True, sweep=True)
    assert "\n" not in str(raised.value)


def test_a_mistake_of_some_values_of_a_sweep_stands_once_below_its_table(capsys):
    given = [*SMALL, "simulate=false", "sweep.plot=", "sweep.over=block_tokens"]
    assert plan(None, [*given, "sweep.values=[0,64,-1]"], as_json=False, sweep=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["0", "64", "-1"]
    assert lines[2].split()[-3:] == ["-"] * 3, "nothing was simulated"
    assert lines[4:] == ["block_tokens=0, -1: block_tokens: 1 and more are allowed"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["context=9000000", "devices=4"], r"4 devices hold at most \d+ tokens.*allowed"),
        (["tp=3", "devices=8"], "tp=3: 0 .try all., or what divides devices=8"),
        (["devices=-1"], "devices=-1: 0 .the fewest. to 4096 is allowed"),
        (["lending=local_only"], "lends nothing; ledger, greedy and balanced do"),
        (["lending=much"], "unknown system 'much'; known:.*balanced"),
        (["price=-2"], "price=-2.0: 0 and more are allowed"),
        (["ttft_s=0"], "ttft_s=0 must be above 0"),
        (["model=gpt-9"], "'gpt-9' is neither.*llama2-70b"),
        (["hardware=tpu"], "'tpu' is neither.*h100.*lendkv profile"),
        (["model=llama2-70b", "devices=1"], "leave no room for 2 blocks.*larger tp"),
        (["instances=3"], "unknown key 'instances'"),
        (["sweep.over=price"], "sweep.values"),
        (["sweep.over=price", "sweep.values=[1]", "sweep.plot=a.txt"], "ends in .png or"),
        (
            ["sweep.over=price", "sweep.values=[1]", "sweep.plot=/proc/a.png"],
            "can be written there",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(given, says):
    with pytest.raises(ConfigError, match=says) as raised:
        plan(None, [*given, "simulate=false"], as_json=True, sweep="sweep.over=price" in given)
    assert "\n" not in str(raised.value)


def test_a_context_alone_means_requests_of_that_length():
    config = load(None, ["context=150000", "devices=2"])
    assert config.workload.prompt_tokens == [149488, 149488]
    assert question_of(config).context == 150000
    given = PlanConfig(context=150000, workload=config.workload)
    assert completed(given) == given
    assert choices(question_of(config))[0].room.lenders(150000) == 1
    assert device_hours(4, 0.0) is None
