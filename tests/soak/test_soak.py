"""A minute and a half of overload with clients that leave: nothing leaks and nobody is forgotten.

``make nightly`` runs half an hour of it: ``python tests/soak/soak.py 1800``.
"""

import asyncio

import pytest
from soak import LEFT, serve, soak


@pytest.mark.timeout(900)
def test_an_overloaded_cluster_leaks_nothing(tmp_path):
    with serve(tmp_path) as server:
        findings = asyncio.run(soak(server, 90.0, warm_s=30.0))
    assert server.said == ""
    assert findings.problems == [], findings.figures()
    ends = findings.ends()
    assert min(ends["finished"], ends[LEFT]) > 0, ends
