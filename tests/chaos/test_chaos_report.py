"""What a run's notes come to: wrong tokens, stalls, and how a bystander fared."""

from engine.chaos.clients import Answer
from engine.chaos.oracle import Context
from engine.chaos.report import Notes, Struck, bystander_gaps, figures, stalls
from engine.chaos.schedule import Fault


def answer(times, *, instance, began=0.0, request_id="a", **facts):
    return Answer(
        f"client of {instance}", instance, began, request_id, times=times, finished=True, **facts
    )


def notes(answers, struck=(), steps=(), errors=""):
    return Notes(
        seconds=60.0,
        struck=struck,
        answers=answers,
        steps=steps,
        errors=errors,
        bystander=3,
        wait_s=1.0,
    )


def test_a_token_is_wrong_when_it_differs_is_missing_doubled_or_too_many():
    context = Context([1], {1: "a", 2: "b", 4: "c"})
    assert context.num_wrong({1: "a", 2: "b", 4: "c"}) == 0
    assert context.num_wrong({1: "a", 2: "x", 4: "c"}) == 1
    assert context.num_wrong({1: "a", 4: "c"}) == 1
    assert context.num_wrong({1: "aa", 2: "b", 4: "c"}) == 1
    assert context.num_wrong({1: "a", 2: "b", 4: "c", 5: "d"}) == 1


def test_a_stall_is_the_longest_pause_of_a_debtor_less_what_it_computed_again():
    kill = Struck(Fault(0, "kill", "pool", 2), 10.0, 10.0)
    lines = [
        {"what": "borrow", "at": 1.0, "instance": 0, "creditor": 2, "num_blocks": 3},
        {"what": "step", "at": 10.9, "instance": 0, "seconds": 0.5, "fills": True},
        {"what": "step", "at": 11.0, "instance": 0, "seconds": 0.1, "fills": False},
        {"what": "step", "at": 10.9, "instance": 1, "seconds": 9.0, "fills": True},
        {"what": "done", "at": 20.0, "instance": 0, "request_id": "a", "recomputed_tokens": 8},
    ]
    debtor = answer([8.0, 9.9, 11.0, 11.2], instance=0)
    other = answer([8.0, 9.9, 19.0], instance=1, request_id="b")
    found = stalls(notes([debtor, other], [kill], lines), ("kill",))
    assert [round(one, 6) for one in found] == [0.6]
    facts = figures(notes([debtor, other], [kill], lines))
    assert facts["recomputed_tokens"] == 8
    assert facts["stall_after_pool_kill_s"] == {"count": 1, "median": 0.6, "max": 0.6}


def test_a_bystanders_pauses_are_told_apart_by_the_faults_windows():
    freeze = Struck(Fault(0, "freeze", "pool", 0, 2.0), 10.0, 12.0)
    times = [8.0, 9.0, 10.5, 12.0, 15.5, 16.0]
    quiet, disturbed = bystander_gaps(
        notes([answer(times, instance=3), answer([0.0, 50.0], instance=0)], [freeze])
    )
    assert quiet == [1.0, 0.5]
    assert disturbed == [1.5, 1.5, 3.5]


def test_what_failed_is_counted_and_a_missed_fault_is_no_fault():
    missed = Struck(Fault(0, "leave", "instance", -1), 1.0, 1.0, missed=True)
    said = "lendkv: instance 0: the pool process ended (status -9); starting it again\n"
    facts = figures(
        notes(
            [answer([], instance=None, failed="HTTP 404: gone", num_broken=2)], [missed], (), said
        )
    )
    assert facts["failed_requests"] == 1
    assert facts["failures"] == {"HTTP 404: gone": 1}
    assert facts["broken_connections"] == 2
    assert facts["faults"] == {}
    assert facts["faults_missed"] == ["leave instance"]
    assert facts["restarts"] == {"pool": 1}
