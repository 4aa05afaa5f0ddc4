"""Who has no key gets 401 and learns nothing; keys are read from lines, and told by nobody."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from instant import build, send

from engine.config import load, to_yaml
from engine.errors import ConfigError
from engine.server.api_keys import ANYBODY, KEY_VARIABLE, MAX_PRIORITY, NO_KEYS, ApiKeys, Tenant

BODY = json.dumps({"model": "tiny", "prompt": "hi"}).encode()
SECRET = "sk-secret"
KEYS = ApiKeys([("here", f"{SECRET} name=alice"), ("here", "sk-other")])


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/models", "/v2"])
@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer sk-wrong", f"Basic {SECRET}"])
def test_without_a_key_nothing_is_told(path, header):
    headers = {} if header is None else {"authorization": header}
    answer = send(build(keys=KEYS), "POST", path, BODY, headers)
    assert answer.status_code == 401
    error = answer.json()["error"]
    assert error["code"] == "invalid_api_key"
    assert error.keys() == {"message", "type", "param", "code"}
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", [SECRET, "sk-other"])
def test_each_key_is_let_in(key):
    headers = {"authorization": f"Bearer {key}"}
    assert send(build(keys=KEYS), "POST", "/v1/completions", BODY, headers).status_code == 200
    assert send(build(keys=KEYS), "GET", "/v1/models", b"", headers).status_code == 200


def test_a_stream_is_told_again_to_its_own_tenant_only():
    app = build(keys=KEYS)
    mine, other = ({"authorization": f"Bearer {key}"} for key in (SECRET, "sk-other"))
    body = json.dumps({"model": "tiny", "prompt": "hi", "request_id": "1", "stream": True})
    told = send(app, "POST", "/v1/completions", body.encode(), mine)
    assert send(app, "GET", "/v1/streams/cmpl-1", b"", mine).text == told.text
    assert send(app, "GET", "/v1/streams/cmpl-1", b"", other).status_code == 404


@pytest.mark.parametrize("path", ["/health", "/version", "/metrics"])
def test_probes_and_scrapes_need_none(path):
    assert send(build(keys=KEYS), "GET", path).status_code == 200


@given(
    st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=4, unique=True),
    st.text("abc", max_size=4),
)
def test_a_header_finds_the_tenant_of_its_whole_key_and_no_other(keys, tried):
    known = ApiKeys([("here", f"{key} name={key}") for key in keys])
    found = known.find(f"Bearer {tried}")
    assert found == (Tenant(name=tried) if tried in keys else None)


def test_without_any_keys_everybody_may():
    assert NO_KEYS.find("") == ANYBODY
    assert send(build(), "POST", "/v1/completions", BODY).status_code == 200


def test_a_file_gives_each_key_its_options(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    file = tmp_path / "keys"
    file.write_text(
        "# ours\n\nsk-a name=alice requests=4 tokens_per_minute=9000 priority=-2 max_borrowed=0\n"
        "sk-b priority=1\n"
    )
    keys = ApiKeys.read(["sk-c"], str(file))
    alice = Tenant(
        name="alice", max_requests=4, tokens_per_minute=9000, max_borrowed=0, priority=-2
    )
    assert keys.find("Bearer sk-a") == alice
    assert keys.find("bearer sk-b") == Tenant(name="key-3", priority=1)
    assert keys.find("Bearer sk-c") == Tenant(name="key-1")


def test_the_environment_gives_keys_too(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "sk-e name=env")
    assert ApiKeys.read([], "").find("Bearer sk-e") == Tenant(name="env")
    monkeypatch.setenv(KEY_VARIABLE, "")
    with pytest.raises(ConfigError, match="nobody could use the API"):
        ApiKeys.read([], "")


def test_mistakes_are_told_all_at_once_and_without_the_keys():
    lines = [
        f"{SECRET}1 speed=3",
        f"{SECRET}2 requests=0",
        f"{SECRET}3 priority={MAX_PRIORITY + 1} max_borrowed=-1",
        f"{SECRET}2",
        f"{SECRET}4 name=key-1",
    ]
    with pytest.raises(ConfigError) as failure:
        ApiKeys([(f"line {n}", line) for n, line in enumerate(lines, 1)])
    said = failure.value.problems
    assert [text.partition(":")[0] for text in said] == [f"line {n}" for n in (1, 2, 3, 3, 4, 5)]
    assert SECRET not in str(failure.value)


def test_a_file_that_is_not_there_is_a_mistake():
    with pytest.raises(ConfigError, match="serve.api_key_file"):
        ApiKeys.read([], "/nowhere/keys")


def test_the_printed_configuration_hides_keys():
    shown = to_yaml(load(None, [f"serve.api_keys=[{SECRET},sk-b]"]))
    assert SECRET not in shown
    assert shown.count("***") == 2
