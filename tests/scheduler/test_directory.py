"""Who is there, told as changes: whatever is lost on the way, what was last heard is whole."""

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.protocol import FROM_PLANNER, TO_PLANNER, Member, Members, MembersQuery, encode
from engine.scheduler.directory import Directory, MemberList

NUM = 5
CHANGES = ["num_free", "sketch", "step_address", "epoch", "none", "leave", "restart"]


def member(instance):
    return Member(instance, 1, f"step-{instance}", 100, 50, 0, 40, 8, f"pool-{instance}")


def changed(one, what, value):
    if what == "sketch":
        return replace(one, sketch=bytes([value]) * 100)
    if what == "step_address":
        return replace(one, step_address=f"step-{value}")
    return replace(one, **{what: value})


@given(
    moves=st.lists(
        st.tuples(
            st.sampled_from(CHANGES),
            st.integers(0, NUM - 1),
            st.integers(0, 3),
            st.booleans(),  # whether the answer arrives
            st.floats(0.0, 1.0),
        ),
        max_size=25,
    )
)
def test_what_was_heard_last_is_what_was_there(moves):
    directory, asker, now = Directory(), MemberList(), 5.0
    there = {one: member(one) for one in range(NUM - 1)}
    for what, instance, value, arrives, passed_s in moves:
        now += passed_s
        if what == "restart":
            directory = Directory()
            there = {} if value == 0 else there  # it has not heard of anybody yet
        elif what == "leave":
            there.pop(instance, None)
        elif instance not in there:
            there[instance] = member(instance)
        elif what != "none":
            there[instance] = changed(there[instance], what, value)
        members = [there[one] for one in sorted(there)]
        query = TO_PLANNER(encode(asker.query()))
        said = FROM_PLANNER(encode(directory.answer(members, query.since, now)))
        event("whole" if not said.since else f"{len(said.members)} of {len(members)}")
        if arrives:
            assert asker.heard(said) == members
            quiet = directory.answer(members, asker.query().since, now)
            assert quiet.members == [], "nothing is said twice"


def test_an_answer_that_was_overtaken_is_not_believed():
    directory, asker = Directory(), MemberList()
    first = [member(0), member(1)]
    asker.heard(directory.answer(first, 0, 1.0))
    late = directory.answer([replace(first[0], num_free=9), first[1]], asker.query().since, 2.0)
    last = [replace(first[0], num_free=3)]
    assert asker.heard(directory.answer(last, asker.query().since, 3.0)) == last
    assert asker.heard(late) == last


def test_a_sketch_travels_only_when_it_has_changed():
    directory = Directory()
    one = replace(member(0), sketch=b"x" * 1000)
    number = directory.answer([one], 0, 1.0).number
    said = directory.answer([replace(one, num_free=1)], number, 2.0)
    assert said.members == [replace(one, num_free=1, sketch=None)]
    again = directory.answer([replace(one, num_free=1)], 0, 2.0)
    assert again.members[0].sketch == one.sketch, "who knows nothing is told all"


@pytest.mark.parametrize("old", [MembersQuery(), MembersQuery(0)])
def test_who_asks_for_all_gets_all_and_older_planners_say_no_more(old):
    directory = Directory()
    members = [member(0), member(1)]
    for now in (1.0, 2.0):
        assert directory.answer(members, old.since, now).members == members
    asker = MemberList()
    for some in (members, members[:1], []):
        assert asker.heard(Members(some)) == some
        assert asker.query() == MembersQuery(0)
