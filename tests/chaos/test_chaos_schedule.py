"""The drawn faults: from a seed, of all kinds, never closer than the supervisors allow."""

from hypothesis import given
from hypothesis import strategies as st

from engine.chaos.schedule import KINDS, Times, draw_schedule

TIMES = Times(seconds=300.0, every_s=7.0, wait_s=1.0, lease_s=3.0)
kinds = st.lists(st.sampled_from(sorted(KINDS)), min_size=1, unique=True)


@given(seed=st.integers(0, 1 << 32), kinds=kinds, num_victims=st.integers(1, 7))
def test_a_seed_gives_one_schedule_with_pauses(seed, kinds, num_victims):
    faults = draw_schedule(TIMES, seed=seed, kinds=kinds, num_victims=num_victims)
    assert faults == draw_schedule(TIMES, seed=seed, kinds=kinds, num_victims=num_victims)
    assert len(faults) == 42
    pauses = [b.at_s - a.at_s for a, b in zip(faults, faults[1:], strict=False)]
    assert min(pauses) >= TIMES.every_s - 1e-9
    assert all(0 <= fault.at_s < TIMES.seconds for fault in faults)
    assert all(fault.instance < num_victims for fault in faults)


@given(seed=st.integers(0, 1 << 32))
def test_five_minutes_have_every_kind_and_role_and_guests_come_before_they_leave(seed):
    faults = draw_schedule(TIMES, seed=seed, kinds=sorted(KINDS), num_victims=3)
    wanted = {(kind, role) for kind, roles in KINDS.items() for role in roles}
    assert {(fault.kind, fault.role) for fault in faults} == wanted
    guests = [fault.kind for fault in faults if fault.kind in ("join", "leave")]
    assert guests == [("join", "leave")[number % 2] for number in range(len(guests))]
    freezes = [fault.for_s for fault in faults if fault.kind in ("freeze", "partition")]
    assert min(freezes) > TIMES.wait_s
    assert max(freezes) > TIMES.lease_s
