"""What comes of several choices at the same time: all of it, and nothing is left behind."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.server.choices import all_of, merged

GUARD_S = 20.0


async def stream(number, length, closed, error_at=None):
    try:
        for index in range(length):
            await asyncio.sleep(0)
            if index == error_at:
                raise ValueError(f"stream {number}")
            yield number, index
    finally:
        closed.append(number)


def run(work):
    return asyncio.run(asyncio.wait_for(work, GUARD_S))


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_all_of_each_stream_comes_in_its_order(lengths):
    closed = []

    async def go():
        streams = [stream(number, length, closed) for number, length in enumerate(lengths)]
        return [one async for one in merged(streams)]

    found = run(go())
    for number, length in enumerate(lengths):
        assert [index for of, index in found if of == number] == list(range(length))
    assert sorted(closed) == list(range(len(lengths)))


@pytest.mark.parametrize("num_streams", [1, 3])
@pytest.mark.parametrize("taken", [1, 2, 5])
def test_who_stops_in_the_middle_closes_all(num_streams, taken):
    """Also those that wait to say something."""
    closed = []

    async def go():
        whole = merged([stream(number, 99, closed) for number in range(num_streams)])
        for _ in range(taken):
            await anext(whole)
            await asyncio.sleep(0.01)
        await whole.aclose()

    run(go())
    assert sorted(closed) == list(range(num_streams))


@pytest.mark.parametrize("num_streams", [1, 3])
def test_an_error_of_one_is_the_readers(num_streams):
    closed = []

    async def go():
        streams = [stream(n, 99, closed, 2 if n == 0 else None) for n in range(num_streams)]
        async for _ in merged(streams):
            pass

    with pytest.raises(ValueError, match="stream 0"):
        run(go())
    assert sorted(closed) == list(range(num_streams))


def test_the_first_error_cancels_the_others():
    ends = []

    async def work(number):
        try:
            await asyncio.sleep(0 if number == 1 else GUARD_S)
            raise ValueError("one")
        except asyncio.CancelledError:
            ends.append(number)
            raise

    async def go():
        with pytest.raises(ValueError, match="one"):
            await all_of([work(number) for number in range(3)])
        await asyncio.sleep(0)

    run(go())
    assert ends == [0, 2]
