"""Places in a window that NIXL writes into."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.comm.frame import align
from engine.comm.nixl_window import Places
from engine.errors import PeerLost


@given(
    num_bytes=st.integers(1, 40).map(lambda n: 64 * n),
    steps=st.lists(st.one_of(st.none(), st.integers(1, 2600)), max_size=60),
)
def test_places_never_overlap_and_what_fits_is_taken(num_bytes, steps):
    places, taken = Places(num_bytes), []
    for wanted in steps:
        if wanted is None:
            if taken:
                places.give_back()
                taken.pop(0)
            continue
        offset = places.take(wanted)
        if offset is None:
            first, last = (taken[0][0], align(taken[-1][1])) if taken else (0, 0)
            room = first - last if taken and first >= last else max(num_bytes - last, first)
            assert align(wanted) > room
            continue
        assert offset % 64 == 0
        assert 0 <= offset <= num_bytes - wanted
        for start, end in taken:
            assert offset + wanted <= start or end <= offset
        taken.append((offset, offset + wanted))
    for _ in taken:
        places.give_back()
    with pytest.raises(PeerLost):
        places.give_back()
