"""Who works on one device at the same time gets equal shares of it; partials come in one by one."""

from dataclasses import asdict, replace
from heapq import heapify, heappop, heappush

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.sim.hardware.model import MODELS
from engine.sim.hardware.profile import Measured, profile_of
from engine.sim.hardware.step_time import Keys, StepTime, Work
from engine.sim.serving.cluster import Cluster
from engine.sim.serving.config import ServingConfig
from engine.sim.serving.systems import configured, system_of

A100, MODEL = profile_of("a100-80gb"), MODELS["llama2-7b"]
HOLDER, ASKER, SECOND, THIRD = range(4)
LONG = 400_000
"""keys whose reading takes many times what the rest of a step does"""
LONG_S = StepTime(A100, MODEL, 1).costs.attention_s(LONG, LONG)


def asking(own: int, asked: int) -> Work:
    return Work(1, 1, Keys(1, own, own), {HOLDER: Keys(1, asked, asked)})


OWN = Work(1, 1, Keys(1, LONG, LONG))
ASKED = asking(1, LONG)


def cluster(num_instances: int, system: str = "ledger", **changes) -> Cluster:
    """Of links without a latency, so that a step that asks waits for its holder's device."""
    kind, no_way = system_of(system), {"latency_s": 0.0}
    changes |= {"intra": no_way, "inter": no_way}
    config = ServingConfig(instances=num_instances, pool_blocks=64, hardware_changes=changes)
    return Cluster(configured(config, kind), kind)


def begin(one: Cluster, number: int, work: Work) -> float:
    """Its seconds."""
    strain = one.instances[number].strain
    return strain.charged(work) + strain.felt()


def answered_s(one: Cluster, work: Work = ASKED) -> float:
    """What a step that asks now takes for its answers."""
    seconds = begin(one, ASKER, work)
    one.instances[ASKER].strain.rest()
    return seconds - one.times.of(ASKER, Work(1, 1, Keys(1, 0, 0))).seconds


def test_an_answer_beside_a_step_of_the_holder_takes_twice_as_long():
    one = cluster(2)
    assert answered_s(one) == pytest.approx(LONG_S, rel=0.01)
    begin(one, HOLDER, OWN)
    assert answered_s(one) == pytest.approx(2 * LONG_S, rel=0.01)
    one.instances[HOLDER].strain.rest()
    assert answered_s(one) == pytest.approx(LONG_S, rel=0.01)


def test_beside_two_others_in_full_action_it_takes_three_times_as_long_while_they_are():
    one = cluster(4)
    begin(one, SECOND, ASKED)
    begin(one, THIRD, ASKED)
    assert answered_s(one) == pytest.approx(3 * LONG_S, rel=0.1)
    one.instances[SECOND].strain.rest()
    assert answered_s(one) == pytest.approx(2 * LONG_S, rel=0.1)
    one.instances[THIRD].strain.rest()
    assert answered_s(one) == pytest.approx(LONG_S, rel=0.01)


def test_who_asks_a_little_takes_a_little():
    """A hundredth of its step's time; a step that waits for answers works less itself."""
    one = cluster(3)
    alone = begin(one, SECOND, asking(own=LONG, asked=LONG // 100))
    assert alone == pytest.approx(one.times.of(SECOND, OWN).seconds)
    assert answered_s(one) == pytest.approx(1.01 * LONG_S, rel=0.01)
    begin(one, HOLDER, Work(1, 1, Keys(1, LONG // 4, LONG // 4), {SECOND: Keys(1, LONG, LONG)}))
    assert 1.1 * LONG_S < answered_s(one) < 1.2 * LONG_S


def test_decodes_in_a_row_have_their_shares_until_the_last_has_ended():
    one = cluster(3)
    second, own = one.instances[SECOND].strain, one.instances[HOLDER].strain
    assert list(second.seconds(ASKED, 5)) == pytest.approx([begin(one, SECOND, ASKED)] * 5)
    assert answered_s(one) == pytest.approx(2 * LONG_S, rel=0.1)
    second.strode(ASKED, 2)
    second.rest()
    assert answered_s(one) == pytest.approx(LONG_S, rel=0.01)
    assert len(list(own.seconds(OWN, 5))) == 5
    assert answered_s(one) == pytest.approx(2 * LONG_S, rel=0.01)
    own.rest()
    assert answered_s(one) == pytest.approx(LONG_S, rel=0.01)


def test_keys_that_are_fetched_take_nothing_of_their_holders_device():
    one = cluster(3, "kv-moving")
    begin(one, SECOND, ASKED)
    begin(one, HOLDER, ASKED)
    assert begin(one, ASKER, ASKED) == one.times.of(ASKER, ASKED).seconds


@settings(max_examples=20, deadline=None)
@given(
    starts=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=8),
    holds=st.booleans(),
    share=st.sampled_from([0.3, 1.0]),
)
def test_a_device_does_as_much_as_it_has_time_for(starts, holds, share):
    """However many ask it, one step after another, and whether it is in steps of its own."""
    one, until, done_s = cluster(9), 20.0, 0.0
    work = asking(1, int(share * LONG))
    events = [(start, number) for number, start in enumerate(starts, 0 if holds else 1)]
    heapify(events)
    while events[0][0] < until:
        one.clock.now, number = heappop(events)
        one.instances[number].strain.rest()
        its = OWN if number == HOLDER else work
        heappush(events, (one.clock.now + begin(one, number, its), number))
        took = one.times.of(number, its)
        done_s += took.seconds if number == HOLDER else took.serving_s[HOLDER]
    assert 0.7 * until < done_s < 1.1 * until


def partials(num_near: int, num_far: int, *, rows: int = 512) -> float:
    """Seconds until the last of them are there, of holders with next to no keys."""
    near = replace(A100.intra, latency_s=0.0, bandwidth=1e9, bandwidth_share=1.0)
    far = replace(near, bandwidth=0.5e9)
    times = StepTime(replace(A100, intra=near, inter=far, devices_per_node=16), MODEL, 1)
    holders = [*range(1, 1 + num_near), *range(16, 16 + num_far)]
    return times.of(0, Work(1, 1, Keys(1, 1, 1), {n: Keys(rows, 1, 1) for n in holders})).answered_s


def test_partials_of_all_holders_come_in_over_the_askers_link_one_after_another():
    layers, values = MODEL.num_layers, 512 * MODEL.num_heads * MODEL.head_dim
    back_s = layers * 4 * values * (1 + 1 / MODEL.head_dim) / 1e9
    out_s = layers * 2 * values / 1e9
    assert partials(1, 0) == pytest.approx(out_s + back_s, rel=0.01)
    assert partials(8, 0) == pytest.approx(8 * back_s, rel=0.01)
    assert partials(0, 8) == pytest.approx(16 * back_s, rel=0.01), "half as fast"
    assert partials(8, 4) == pytest.approx(8 * back_s, rel=0.01), "beside each other"
    assert partials(8, 0, rows=1) == pytest.approx(8 * back_s / 512, rel=0.01)


def test_one_holder_with_nothing_else_to_do_answers_as_if_alone():
    times = StepTime(A100, MODEL, 1)
    took = times.of(ASKER, ASKED)
    assert took.answered_s == pytest.approx(LONG_S + times.trip_s(ASKER, HOLDER))
    assert took.seconds == times.of(ASKER, Work(1, 1, Keys(1, 0, 0))).seconds + took.answered_s


TIMED = Measured(rows=[1.0], rows_s=[0.01], read_key_s=1e-6, pair_s=0.0, wait_s=4e-3)


def test_with_measured_steps_an_answer_waits_once_more_beside_others():
    times = StepTime(replace(A100, measured=TIMED), MODEL, 1)
    for load, more_s in ((0.0, 0.0), (0.5, 0.202), (1.0, 0.404), (2.0, 0.804)):
        took = times.of(ASKER, ASKED, lambda _, load=load: load)
        assert took.answered_s == pytest.approx(0.4 + more_s + times.trip_s(ASKER, HOLDER))


def test_with_measured_steps_a_holders_step_counts_whole_whatever_it_waits_for():
    one = cluster(3, measured=asdict(TIMED))
    begin(one, HOLDER, Work(1, 1, Keys(1, 1, 1), {SECOND: Keys(1, LONG, LONG)}))
    assert answered_s(one) == pytest.approx(0.804, rel=0.01)
