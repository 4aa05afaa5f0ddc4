"""The picture of where a context lay: instances in the order of their numbers."""

import io

from rich.console import Console

from engine.picture import PoolUse, picture


def test_instances_stand_in_the_order_of_their_numbers_whoever_told_of_itself_first():
    pools = [PoolUse(number, 8, 4, 0) for number in (0, 3, 1, 2)]
    traffic = dict.fromkeys(("query_bytes", "partial_bytes", "moved_bytes", "kv_bytes_avoided"), 0)
    file = io.StringIO()
    shown = picture([0, 0, 2], pools, owner=0, block_tokens=64, **traffic)
    Console(file=file, width=100).print(shown)
    lines = [line.split() for line in file.getvalue().splitlines()]
    assert [line[0] for line in lines if line[-1:] == ["blocks"]] == ["0", "1", "2", "3"]
