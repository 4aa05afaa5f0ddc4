"""Protects what a measured machine's steps take beside others: neighbours on its host, frontend and
planner, questions to a holder that is in a step, and memory that is read in place.
"""

from dataclasses import asdict, replace

import pytest
from omegaconf import OmegaConf

from engine.scheduler.scheduler import Scheduler
from engine.sim.hardware.model import MODELS
from engine.sim.hardware.profile import Measured, Profile, profile_of
from engine.sim.hardware.step_time import Keys, StepTime, Work
from engine.sim.serving.config import ServingConfig
from engine.sim.serving.run import run
from engine.sim.serving.workload import Arrival

KEY_S, STEP_S = 1e-6, 0.01
PLAIN = Measured(
    rows=[1.0, 512.0], rows_s=[STEP_S, 0.2], read_key_s=KEY_S, pair_s=1e-7, control_s=1e-4
)
CONFIG = ServingConfig(
    model="smollm2-135m",
    instances=2,
    block_tokens=64,
    pool_blocks=60,
    scheduler=Scheduler.Config(max_step_tokens=512, grow_blocks=1, prefix_caching=False),
)


@pytest.fixture
def played(tmp_path):
    """Figures of a system over requests, on a host with these measured costs."""

    def play(name: str, requests: list[Arrival], **costs):
        profile = replace(machine(**costs), device=profile_of("h100").device)
        path = tmp_path / "machine.yaml"
        OmegaConf.save(OmegaConf.create(asdict(profile)), path)
        return run(replace(CONFIG, hardware=str(path)), name, requests)

    return play


def machine(latency_s: float = 1e-6, **costs) -> Profile:
    profile = profile_of("h100")
    near = replace(profile.intra, latency_s=latency_s)
    measured = replace(PLAIN, **costs)
    return replace(profile, intra=near, measured=measured, devices_per_node=2)


def tpot(figures) -> float:
    return figures["tpot_s"]["p50"]


def test_a_neighbour_in_a_step_makes_steps_longer(played):
    both = [Arrival(0.0, 64, 100, instance) for instance in (0, 1)]
    plain = tpot(played("local_only", both))
    assert tpot(played("local_only", both, beside=1.5)) == pytest.approx(1.5 * plain, rel=0.05)
    assert tpot(played("local_only", both[:1], beside=1.5)) == pytest.approx(plain, rel=0.02)


def test_frontend_and_planner_take_of_the_first_instances_cores(played):
    for instance, more_s in ((0, 3e-3), (1, 0.0)):
        alone = [Arrival(0.0, 64, 100, instance)]
        plain = tpot(played("local_only", alone))
        found = tpot(played("local_only", alone, front_s=2e-3, token_s=1e-3))
        assert found == pytest.approx(plain + more_s, rel=0.02)


def test_memory_is_read_in_place_where_that_is_quicker(played):
    """A context of 5,000 tokens in a pool of 3,840; 30 layers' questions would take 0.3 s."""
    long = [Arrival(0.0, 5000, 40, 0)]
    asked = tpot(played("ledger", long, latency_s=5e-3))
    mapped = tpot(played("ledger", long, latency_s=5e-3, maps=True))
    assert asked > 0.3
    assert mapped == pytest.approx(STEP_S + 5000 * KEY_S, rel=0.1)


def test_a_holder_in_a_step_answers_later():
    times = StepTime(machine(wait_s=4e-3, answer_s=2e-3), MODELS["smollm2-135m"], 1)
    work = Work(1, 1, Keys(1, 10, 10), {1: Keys(1, 1000, 1000)})
    idle, busy = times.of(0, work), times.of(0, work, lambda holder: float(holder == 1))
    assert busy.seconds - idle.seconds == pytest.approx(4e-3 + 1000 * KEY_S)
    assert idle.serving_s[1] == busy.serving_s[1] == pytest.approx(2e-3 + 1000 * KEY_S)
    assert times.mapped(work).seconds == pytest.approx(STEP_S + 1010 * KEY_S)


def test_sampled_rows_take_what_they_were_measured_to():
    times = StepTime(machine(batches=[1.0, 11.0], batches_s=[0.0, 0.02]), MODELS["smollm2-135m"], 1)
    one, six = (times.of(0, Work(6, n, Keys(6, 0, 0))).seconds for n in (1, 6))
    assert six - one == pytest.approx(0.01)
