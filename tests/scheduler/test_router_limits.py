"""A request whose key may borrow few blocks goes where it can be held, if that is anywhere."""

from hypothesis import assume, event, given
from hypothesis import strategies as st

from engine.core import BlockLayout, Request
from engine.protocol import Member
from engine.scheduler.allowance import Allowance
from engine.scheduler.base import Need
from engine.scheduler.request_table import RequestTable

TOKENS = 4
LAYOUT = BlockLayout(layers=1, kv_heads=1, head_dim=4, tokens=TOKENS, dtype="float32")


def member(instance, num_blocks, num_free):
    return Member(instance, 1, f"step-{instance}", num_blocks, num_free, 0, 0)


def is_refused(request, num_blocks, working):
    """For ever, by an instance with so many blocks."""
    need = Need(
        owner=0, host="", num_blocks=0, num_local=0, num_pool=num_blocks, working_blocks=working
    )
    allowance = Allowance(
        need=need, layout=LAYOUT, debts=None, negotiator=None, sequences=lambda: []
    )
    return bool(allowance.refusal_for_ever(request, len(request.prompt_ids)))


@given(
    pools=st.lists(st.tuples(st.integers(4, 40), st.integers(0, 40)), min_size=1, max_size=5),
    earlier=st.lists(st.integers(1, 120), max_size=6),
    num_tokens=st.integers(1, 200),
    most=st.integers(0, 30),
    working=st.integers(1, 4),
)
def test_it_is_refused_only_if_all_would_refuse_it(pools, earlier, num_tokens, most, working):
    table = RequestTable(block_tokens=TOKENS)
    members = [member(k, size, min(size, free)) for k, (size, free) in enumerate(pools)]
    table.on_members(members, 0.0)
    for number, length in enumerate(earlier):  # of a key without a limit: they make some busy
        table.add(Request(request_id=str(number), prompt_ids=(number,) * length), 0.0)
    request = Request(request_id="r", prompt_ids=(7,) * num_tokens, max_borrowed=most)
    entry = table.add(request, 0.0)
    refused = [is_refused(request, size, working) for size, _ in pools]
    assume(not all(refused))
    event(f"refused by {sum(refused)}")
    assert not refused[entry.instance]
