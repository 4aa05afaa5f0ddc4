"""A folder whose files are damaged is loaded or refused in a sentence, whatever is in them."""

import copy
import json
import re
import shutil
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_checkpoint import make_tiny_checkpoint

from engine.errors import CheckpointError
from engine.model.checkpoint import describe, end_ids, load_tokenizer
from engine.model.generation import generation_defaults

MORE = {
    "generation_config.json": {"eos_token_id": 2, "temperature": 0.5, "top_k": 3, "min_p": 0.1},
    "tokenizer_config.json": {"chat_template": "x", "eos_token": {"content": "b"}},
    "special_tokens_map.json": {"bos_token": "a"},
}
NAMES = ("config.json", "tokenizer.json", *MORE)
DEEP = b"[" * 100_000
junk = st.sampled_from(
    [None, True, 0, -1, 1.5, 1e308, float("nan"), 10**400, "", "32", [], [1], [{}], {}, {"a": 1}]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = make_tiny_checkpoint(tmp_path_factory.mktemp("files") / "model")
    for name, value in MORE.items():
        (path / name).write_text(json.dumps(value))
    return path


def read_all(path):
    """What a server reads of a folder before it needs weights."""
    for read in (describe, end_ids, generation_defaults):
        with suppress(CheckpointError):
            read(str(path))
    with suppress(CheckpointError):
        tokenizer = load_tokenizer(str(path))
        if tokenizer.template is not None:
            with suppress(ValueError):  # the template refuses these messages
                tokenizer.chat([{"role": "user", "content": "hello"}])


def places(value, path=()):
    """All paths in a JSON value, of long lists only the first few."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else ()
    items = list(enumerate(value))[:3] if isinstance(value, list) else items
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def changed(value, path, new):
    whole = copy.deepcopy(value)
    at = whole
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return whole


@given(name=st.sampled_from(NAMES), new=junk, data=st.data())
def test_any_value_may_be_another(folder, name, new, data):
    original = (folder / name).read_bytes()
    value = json.loads(original)
    path = data.draw(st.sampled_from(places(value)))
    (folder / name).write_text(json.dumps(changed(value, path, new)))
    try:
        read_all(folder)
    finally:
        (folder / name).write_bytes(original)


@example(name="config.json", given_=DEEP)
@example(name="tokenizer_config.json", given_=DEEP)
@example(name="chat_template.jinja", given_=b"\xff")
@example(name="chat_template.jinja", given_=b"{% for %}")
@example(name="chat_template.jinja", given_=b"{{ 1 / 0 }}")
@given(name=st.sampled_from([*NAMES, "chat_template.jinja"]), given_=st.binary(max_size=40))
def test_any_bytes_may_be_there(folder, name, given_):
    path = folder / name
    original = path.read_bytes() if path.exists() else None
    path.write_bytes(given_)
    try:
        read_all(folder)
    finally:
        path.unlink() if original is None else path.write_bytes(original)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_folder", [False, True])
def test_any_file_may_be_missing_or_a_folder(folder, tmp_path, name, is_folder):
    copied = shutil.copytree(folder, tmp_path / "model")
    (copied / name).unlink()
    if is_folder:
        (copied / name).mkdir()
    if name != "tokenizer.json" or is_folder:
        read_all(copied)
    else:
        assert load_tokenizer(str(copied)) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, "x"], "eos_token_id is [1, 'x']"),
        (-1, "a token's number"),
        (1.5, "eos_token_id is 1.5"),
    ],
)
def test_tokens_that_end_an_answer_are_numbers(folder, tmp_path, value, said):
    copied = shutil.copytree(folder, tmp_path / "model")
    (copied / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(CheckpointError, match=re.escape(said)):
        end_ids(str(copied))
