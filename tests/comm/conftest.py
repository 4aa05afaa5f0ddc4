"""Every transport of the registry."""

import pytest
from comm_harness import TRANSPORT_NAMES, link


@pytest.fixture(params=TRANSPORT_NAMES)
def net(request):
    with link(request.param) as made:
        yield made
