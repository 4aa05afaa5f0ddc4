"""A lendkv of the next version runs beside this one; one that is further away is told why not."""

import pytest
from command import Command
from hypothesis import given
from hypothesis import strategies as st
from test_launch_join import KEY, cluster, fetch, free_port, ready

from engine.protocol import VERSION, base, version_fault

OTHER = """
import sys
from engine.protocol import base
import engine.protocol
base.VERSION = engine.protocol.VERSION = {version}
base.OLDEST = {oldest}
from engine.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Other(Command):
    """``lendkv serve`` as another version of it would be."""

    def __init__(self, version, oldest, recipe, where, *overrides):
        self.script = OTHER.format(version=version, oldest=oldest)
        fixed = ("instances=1", "serve.model_name=tiny", where)
        super().__init__("serve", recipe, *fixed, *overrides, LENDKV_KEY=KEY)

    def program(self):
        return ["-c", self.script]


def test_the_next_version_joins_and_answers(recipe):
    with cluster(recipe, "pool.num_blocks=64") as (_, http, where):
        own = free_port()
        options = ("pool.num_blocks=64", f"serve.instance_port={own}")
        late = Other(VERSION + 1, VERSION, recipe, where, *options)
        late.wait_until(lambda: ready(http) == [0, 1])
        late.wait_until(lambda: ready(own) == [1])
        body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
        assert "choices" in fetch(own, "/v1/completions", body)
        late.process.terminate()
        done = late.finish()
        assert done.status == 0, done.err


@pytest.mark.parametrize(
    ("version", "oldest", "who"),
    [
        (VERSION + 1, VERSION + 1, "upgrade the other side"),
        (VERSION + 6, VERSION + 5, "upgrade the other side"),
        (VERSION - 1, VERSION - 1, "upgrade this side"),
    ],
)
def test_who_is_further_away_is_told_both_versions_and_what_to_do(recipe, version, oldest, who):
    with cluster(recipe) as (_, http, where):
        done = Other(version, oldest, recipe, where).finish()
        assert done.status == 2, done.err
        [said] = done.sentences
        assert f"speaks version {VERSION} of the protocol" in said
        assert f"versions {oldest} to {version}" in said
        assert who in said
        assert "Traceback" not in done.err
        assert ready(http) == [0]


@given(st.integers(1, 9), st.integers(0, 3), st.integers(1, 9), st.integers(0, 3))
def test_two_talk_when_each_understands_the_other(here, back, there, back_there):
    def understands(version, num_back, other):
        was = base.VERSION, base.OLDEST
        base.VERSION, base.OLDEST = version, version - num_back
        try:
            return not version_fault(other)
        finally:
            base.VERSION, base.OLDEST = was

    both = understands(here, back, there) and understands(there, back_there, here)
    low, high = sorted([(here, back), (there, back_there)])
    assert both == (high[0] - high[1] <= low[0] and high[0] - low[0] <= 1)
