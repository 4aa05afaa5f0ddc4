"""Stop strings over streamed text: the same text gets out however it was cut into pieces."""

from hypothesis import given
from hypothesis import strategies as st

from engine.server.stops import StopFilter

texts = st.text(alphabet="abc", max_size=30)
stops = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3)


def oracle(text: str, stop_strings: list[str]) -> str:
    """The text up to the stop whose last character comes first; earliest start among equals."""
    for end in range(len(text) + 1):
        starts = [end - len(s) for s in stop_strings if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)]
    return text


@given(text=texts, stop_strings=stops, cuts=st.lists(st.integers(0, 30), max_size=8))
def test_pieces_give_what_the_whole_gives(text, stop_strings, cuts):
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    one, many = StopFilter(stop_strings), StopFilter(stop_strings)
    singles = "".join(one.push(character) for character in text) + one.flush()
    pieces = [text[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    got = "".join(many.push(piece) for piece in pieces) + many.flush()
    assert singles == oracle(text, stop_strings)
    # A longer piece may show a stop that begins earlier and ends later; never more text than that.
    assert text.startswith(got)
    assert not any(stop in got for stop in stop_strings)


@given(text=texts)
def test_without_stops_nothing_is_held_back(text):
    assert StopFilter([]).push(text) == text


def test_what_may_become_a_stop_is_held_until_it_cannot():
    held = StopFilter(["END"])
    assert held.push("xE") == "x"
    assert held.push("N") == ""
    assert held.push("?") == "EN?"
    assert not held.stopped
