"""The router: which instance a request goes to."""

from msgspec import structs

from engine.core import Request
from engine.protocol import Member
from engine.scheduler.request_table import RequestTable
from engine.scheduler.router import route


def member(instance: int, address: str, blocks: int = 100) -> Member:
    return Member(instance, 1, address, blocks, blocks, 0, 0)


def test_router_prefers_room_at_home_then_the_least_loaded():
    members = [member(0, "a", 10), member(1, "b", 100), member(2, "", 1000)]
    assert route(60, members, {}, 4, {}) == 1
    assert route(8, members, {1: 40}, 4, {}) == 0
    assert route(8, members, {0: 40, 1: 40}, 4, {}) == 1
    assert route(8, [member(2, "")], {}, 4, {}) is None


def test_router_prefers_room_that_is_there_already():
    full = structs.replace(member(0, "a", 10), num_free=1)
    assert route(8, [full, member(1, "b", 10)], {1: 8}, 4, {}) == 1
    assert route(4, [full, member(1, "b", 10)], {1: 8}, 4, {}) == 0


def test_router_prefers_who_has_the_prefix_unless_others_have_much_less_to_do():
    members = [member(0, "a", 100), member(1, "b", 100)]
    assert route(40, members, {}, 4, {1: 32}) == 1
    assert route(40, members, {1: 24}, 4, {1: 32}) == 1
    assert route(40, members, {1: 36}, 4, {1: 32}) == 0


def test_what_begins_alike_is_sent_to_the_same_instance():
    table = RequestTable(block_tokens=4)
    table.on_members([member(0, "a", 100), member(1, "b", 100)], 0.0)
    names = iter("abcdef")

    def sent_to(*prompt, salt=""):
        request = Request(request_id=next(names), prompt_ids=prompt, cache_salt=salt)
        entry = table.add(request, 0.0)
        table.cancel(entry.request.request_id, 0.0)
        return entry.instance

    busy = Request(request_id="busy", prompt_ids=(1,))
    assert table.add(busy, 0.0).instance == 0
    assert sent_to(*range(64)) == 1
    table.cancel("busy", 0.0)
    assert sent_to(*range(5)) == 0, "too short to tell"
    assert sent_to(*range(40), 7, 7) == 1
    assert sent_to(*range(40), 7, 7, salt="x") == 0, "it can use nothing of the others"
