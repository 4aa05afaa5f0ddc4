"""What cannot work of NIXL's options, and what is left as it was."""

import importlib
import os
import sys

import pytest

from engine.comm import nixl_agent
from engine.comm.nixl_transport import NixlTransport
from engine.errors import ConfigError


def test_what_cannot_work_is_refused_in_a_sentence(monkeypatch):
    with pytest.raises(ConfigError, match="cannot start UCX over ucx_tls='no such'.*must name tcp"):
        NixlTransport(NixlTransport.Config(ucx_tls="no such"))
    with pytest.raises(ConfigError, match="bulk_bytes is 0"):
        NixlTransport(NixlTransport.Config(bulk_bytes=0))
    with pytest.raises(ConfigError, match="bodies_under_way is 0"):
        NixlTransport(NixlTransport.Config(bodies_under_way=0))
    monkeypatch.setitem(sys.modules, "nixl_cu12", None)
    monkeypatch.delitem(sys.modules, "engine.comm.nixl_agent")
    with pytest.raises(ConfigError, match=r"package nixl-cu12.*pip install 'lendkv\[nixl\]'"):
        importlib.import_module("engine.comm.nixl_agent")


def test_the_environment_is_left_as_it_was(monkeypatch):
    monkeypatch.setenv("UCX_LOG_LEVEL", "error")
    before = dict(os.environ)
    nixl_agent.Agent("tcp").close()
    assert dict(os.environ) == before
