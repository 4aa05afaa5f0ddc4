"""Protects ``lendkv profile``'s arithmetic: a machine of known costs is found again from its times,
and what is written is what the simulator reads.
"""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import load
from engine.errors import ConfigError
from engine.measure.cases import Sizes, sizes_of
from engine.measure.command import profiled
from engine.measure.fit import MEANWHILE, fit
from engine.measure.machine import profile_from, save, written
from engine.measure.timing import BESIDE, Lent, Times
from engine.sim.hardware.model import MODELS
from engine.sim.hardware.profile import Measured, profile_of
from engine.sim.hardware.step_time import Keys, StepTime, Work

SIZES = sizes_of(max_positions=8192, block_tokens=64, step_tokens=256)
LAYERS = 30
H100 = profile_of("h100")
COSTS = st.floats(0.1, 10.0)


def timed(sizes: Sizes, *, step, row, sampled, key, pair, control, ask, trips) -> Times:
    """What a machine of these costs would be measured to take."""

    def own(batch, context):
        return batch * (context + MEANWHILE) * key

    def prefill(rows, first=0):
        pairs = rows * (first + (rows + 1) / 2)
        read = first + rows
        return step + row * (rows - 1) + key * read + pair * (pairs - read)

    decodes = {
        case: step + (row + sampled) * (case.batch - 1) + own(case.batch, case.context)
        for case in sizes.decodes
    }
    chunks = range(0, sizes.long, sizes.step_tokens)
    long = sum(prefill(min(sizes.step_tokens, sizes.long - first), first) for first in chunks)
    lent = []
    for context in sizes.lent_contexts:
        here = sizes.own_blocks * sizes.block_tokens * 3 // 4
        away = context - here
        idle = step + max(here * key, away * key + trips) + ask
        lent.append(Lent(own=here, lent=away, idle_s=idle, busy_s=idle, lender_s=0.0))
    prefills = {rows: control + prefill(rows) for rows in sizes.prefills}
    prefills[1] = control + decodes[sizes.decodes[0]]
    return Times(
        decodes=decodes,
        prefills=prefills,
        long_prefill_s=control + long,
        front_s=(step + own(1, sizes.short) + 1e-3, step + own(1, sizes.short) + 1e-3),
        beside_s=[(1.0, 1.25), (2.0, 2.5)],
        lent=lent,
    )


@given(COSTS, COSTS, COSTS, COSTS, COSTS, COSTS, COSTS, COSTS)
def test_a_known_machine_is_found_again(step, row, sampled, key, pair, control, ask, trips):
    costs = {
        "step": step * 1e-3,
        "row": row * 1e-4,
        "sampled": sampled * 1e-5,
        "key": key * 1e-7,
        "pair": pair * 1e-8,
        "control": control * 1e-4,
        "ask": ask * 1e-4,
        "trips": trips * 1e-5,
    }
    found, way_s = fit(timed(SIZES, **costs), SIZES, LAYERS)
    assert found.read_key_s == pytest.approx(costs["key"], rel=1e-3)
    assert found.pair_s == pytest.approx(costs["pair"], rel=1e-3)
    for rows, seconds in zip(found.rows, found.rows_s, strict=True):
        wanted = costs["step"] + costs["row"] * (rows - 1)
        assert seconds == pytest.approx(wanted, rel=1e-2)
    for batch, seconds in zip(found.batches, found.batches_s, strict=True):
        wanted = costs["sampled"] * (batch - 1)
        assert seconds == pytest.approx(wanted, rel=0.05, abs=2e-4)
    assert found.control_s == pytest.approx(costs["control"])
    assert found.beside == 1.25
    times, read = StepTime(replace(H100, measured=found), MODELS["smollm2-135m"], 1), 2000
    alone = times.of(0, Work(1, 1, Keys(1, read, read))).seconds
    assert alone == pytest.approx(costs["step"] + read * costs["key"], rel=1e-3)
    assert way_s >= 0


@given(st.integers(128, 1 << 20), st.sampled_from([8, 16, 64, 128]), st.integers(1, 8192))
def test_cases_suit_any_model_and_recipe(max_positions, block_tokens, step_tokens):
    if max_positions < 16 * block_tokens:
        return
    sizes = sizes_of(
        max_positions=max_positions, block_tokens=block_tokens, step_tokens=step_tokens
    )
    assert sizes.long + block_tokens <= max_positions
    assert 1 <= sizes.step_tokens <= step_tokens
    assert sizes.long <= (sizes.big_blocks - 8) * block_tokens
    assert sizes.prefills[0] == 1
    assert sizes.prefills[-1] == min(sizes.step_tokens, sizes.long)
    assert sizes.prefills == sorted(set(sizes.prefills))
    assert all(case.batch * case.context <= max(sizes.long, 32 * 16) for case in sizes.decodes)
    passing = -(-sizes.step_tokens // block_tokens) + 1
    assert passing <= sizes.own_blocks // 2


def test_what_is_written_is_what_is_read(tmp_path):
    model = MODELS["smollm2-135m"]
    measured = Measured(
        rows=[1.0, 8.0, 256.0],
        rows_s=[0.0072, 0.0081, 0.12345],
        batches=[1.0, 32.0],
        batches_s=[0.0, 0.0084],
        read_key_s=9.3625e-07,
        pair_s=2.3e-7,
        ask_s=2.8e-3,
        answer_s=1e-4,
        wait_s=5e-3,
        beside=1.418,
        front_s=2.6e-3,
        token_s=1e-4,
        control_s=1.1e-3,
        maps=True,
        sizes=model.sizes,
    )
    profile = profile_from(measured, model, way_s=7.8e-6, copy_rate=8.5e9, threads=1, cores=2)
    path = tmp_path / "machine.yaml"
    save(written(profile, ["a note"]), path)
    read = profile_of(str(path))
    assert read.measured == measured
    assert read.devices_per_node == 2
    assert read.intra == read.inter == profile.intra
    assert read.device.bandwidth == pytest.approx(profile.device.bandwidth, rel=1e-4)
    assert [one.name for one in tmp_path.iterdir()] == ["machine.yaml"]
    StepTime(read, model, 1)
    with pytest.raises(ConfigError, match=r"timed with tp=1 and a model of sizes \[30.*\[32"):
        StepTime(read, MODELS["llama3-8b"], 1)
    rates = profile_of(str(path), {"measured": None})
    assert StepTime(rates, MODELS["llama3-8b"], 1).of(0, Work(1, 1, Keys(1, 9, 9))).seconds > 0


@pytest.mark.parametrize(
    ("given", "output", "says"),
    [
        ([], "machine.json", "a file that ends in .yaml is wanted"),
        ([], "/nowhere/machine.yaml", "there is no folder /nowhere"),
        ([], "/proc/machine.yaml", "no file can be written there"),
        (["model.library=transformers"], "machine.yaml", "model.library=lendkv only"),
    ],
)
def test_what_cannot_be_profiled_is_one_sentence(given, output, says):
    with pytest.raises(ConfigError, match=says):
        profiled(load(None, given), output)


def test_a_recipe_is_profiled_with_two_instances_of_which_one_borrows():
    config = profiled(load(None, ["instances=8", "threads=2"]), "machine.yaml")
    assert (config.instances, config.threads) == (2, 2)
    own, big = config.pool.sizes
    assert own < big
    assert config.attention.options["way"] == "query"
    assert not config.scheduler.hand_over
    assert config.scheduler.max_num_seqs >= BESIDE
