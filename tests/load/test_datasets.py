"""Prompts have the wanted lengths and share what they are to share; files' mistakes are named."""

import gzip
import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.load.dataset import load_samples
from engine.load.options import Options
from engine.load.words import Words
from engine.model.checkpoint import load_tokenizer
from engine.model.tokenizer import Tokenizer
from tests.launch.tiny_checkpoint import byte_tokenizer


@pytest.fixture(scope="module", params=["bytes", "smollm2"])
def tokenizer(request):
    if request.param == "bytes":
        return Tokenizer(byte_tokenizer(), None)
    return load_tokenizer("smollm2")


@pytest.fixture(scope="module")
def words(tokenizer):
    return Words(tokenizer)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(number=st.integers(1, 300), seed=st.integers(0, 1 << 30))
def test_a_text_has_so_many_tokens_and_these(tokenizer, words, number, seed):
    rng = np.random.default_rng(seed)
    ids = words.draw(number, rng)
    text, length = words.text(ids, rng)
    assert length == number
    assert tokenizer.backend.encode(text, add_special_tokens=False).ids == ids


def lengths(tokenizer, samples):
    for one in samples:
        assert len(tokenizer.backend.encode(one.prompt, add_special_tokens=False)) == one.num_prompt
    return [(one.num_prompt, one.num_output) for one in samples]


def test_random_lengths_lie_within_the_ratio_behind_a_common_prefix(tokenizer):
    options = Options(
        num_prompts=40,
        random_input_len=50,
        random_output_len=10,
        random_range_ratio=0.2,
        random_prefix_len=7,
    )
    samples = load_samples(options, tokenizer)
    found = lengths(tokenizer, samples)
    assert all(47 <= size <= 67 and 8 <= output <= 12 for size, output in found)
    assert len(set(found)) > 5
    prefixes = {tuple(tokenizer.encode(one.prompt)[:7]) for one in samples}
    assert len(prefixes) == 1
    assert len({one.prompt for one in samples}) == 40
    assert samples == load_samples(options, tokenizer)
    assert samples != load_samples(Options(num_prompts=40, seed=1), tokenizer)


def test_prefixes_repeat_as_often_as_they_should(tokenizer):
    options = Options(
        dataset_name="prefix_repetition",
        num_prompts=20,
        prefix_repetition_prefix_len=30,
        prefix_repetition_suffix_len=5,
        prefix_repetition_num_prefixes=4,
        output_len=3,
    )
    samples = load_samples(options, tokenizer)
    assert set(lengths(tokenizer, samples)) == {(35, 3)}
    prefixes = [tuple(tokenizer.encode(one.prompt)[:30]) for one in samples]
    assert {prefixes.count(prefix) for prefix in prefixes} == {5}
    assert any(a != b for a, b in pairwise(prefixes))


def write(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.write(text)
    return str(path)


def test_custom_prompts_come_from_a_file_and_begin_anew(tokenizer, tmp_path):
    rows = [{"prompt": "one"}, {"prompt": "two", "output_tokens": 9}]
    path = write(tmp_path / "prompts.jsonl.gz", rows)
    options = Options(dataset_name="custom", dataset_path=path, num_prompts=5, disable_shuffle=True)
    samples = load_samples(options, tokenizer)
    assert [one.prompt for one in samples] == ["one", "two", "one", "two", "one"]
    assert [one.num_output for one in samples] == [256, 9, 256, 9, 256]


def test_a_trace_keeps_times_lengths_and_shared_blocks(tokenizer, tmp_path):
    rows = [
        {"timestamp": 4000, "input_length": 25, "output_length": 2, "hash_ids": [1, 2, 9]},
        {"timestamp": 1000, "input_length": 30, "output_length": 4, "hash_ids": [1, 2, 3]},
        {"timestamp": 1500, "input_length": 12, "output_length": 1, "hash_ids": [5, 6]},
    ]
    options = Options(
        dataset_name="timed_trace",
        dataset_path=write(tmp_path / "trace.jsonl", rows),
        timed_trace_chunk_hash_size=10,
    )
    samples = load_samples(options, tokenizer)
    assert lengths(tokenizer, samples) == [(30, 4), (12, 1), (25, 2)]
    assert [one.arrival_s for one in samples] == [1.0, 1.5, 4.0]
    first, other, second = (tokenizer.encode(one.prompt) for one in samples)
    assert first[:20] == second[:20]
    assert first[20:25] != second[20:25]
    assert other[:10] != first[:10]

    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0.0,3,4\n2.5,8,1\n7,1,1\n")
    options = Options(
        dataset_name="timed_trace",
        dataset_path=str(path),
        num_prompts=2,
        timed_trace_sec_multiplier=0.5,
    )
    samples = load_samples(options, tokenizer)
    assert lengths(tokenizer, samples) == [(3, 4), (8, 1)]
    assert [one.arrival_s for one in samples] == [0.0, 1.25]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("custom", "{}\n", 'line 1: wanted is "prompt"'),
        ("custom", '{"prompt": "a"}\nnonsense\n', "line 2: no JSON"),
        ("custom", "[]\n", "line 1: wanted is an object"),
        ("custom", '{"prompt": "a", "output_tokens": -1}\n', "line 1"),
        ("custom", "", "has no prompts"),
        ("timed_trace", '{"prompt_tokens": 5}\n', "line 1: wanted is output_tokens or"),
        ("timed_trace", '{"prompt_tokens": "x", "output_tokens": 1}\n', "is 'x', no number"),
        ("timed_trace", '{"prompt_tokens": NaN, "output_tokens": 1}\n', "is nan, no number"),
        ("timed_trace", '{"prompt_tokens": 1, "output_tokens": Infinity}\n', "is inf, no number"),
        (
            "timed_trace",
            '{"prompt_tokens": 1, "output_tokens": 1, "hash_ids": "[1]"}\n',
            "hash_ids is '.1.', no list of whole numbers",
        ),
        ("timed_trace", "\n", "has no requests"),
        ("custom", b"\xff\xfe", "cannot be read"),
    ],
)
def test_mistakes_in_a_file_are_named(tokenizer, tmp_path, name, text, said):
    path = tmp_path / "data.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    options = Options(dataset_name=name, dataset_path=str(path))
    with pytest.raises(ConfigError, match=said):
        load_samples(options, tokenizer)
