"""LLM in Python, used wrongly: a sentence, and the next call answers as if nothing had been."""

import math

import numpy as np
import pytest
from cluster_harness import assert_all_returned, cluster, greedy, prompt
from hypothesis import given
from hypothesis import strategies as st

from engine.bounds import COUNT
from engine.config import load
from engine.core import Request, SamplingParams
from engine.errors import ConfigError, LendKVError
from engine.generate import Generate
from engine.llm import LLM
from engine.protocol import TO_STEP, Submit, encode

IDS = prompt(9, 1)
RIGHT = greedy(3)


@pytest.fixture(scope="module")
def llm(tiny):
    made = cluster(tiny, "instances=2")
    yield made
    made.close()


@pytest.fixture(scope="module")
def answer(llm):
    return llm.generate([IDS], RIGHT)[0].token_ids


@pytest.mark.parametrize(
    ("prompts", "given_", "said"),
    [
        ([[]], {}, "the prompt is empty"),
        ([[-1]], {}, r"Expected `int` >= 0 - at `\$.prompt_ids\[0\]`"),
        ([[1.5]], {}, "prompt 0 is no token ids: 'float'"),
        ([IDS, None], {}, "prompt 1 is no token ids: 'NoneType'"),
        ([[128]], {}, "token id 128 is not below 128"),
        (["text"], {}, "no tokenizer.json"),
        ([IDS], {"instances": (2,)}, "no instance 2: there are 2"),
        ([IDS], {"instances": (-1,)}, "no instance -1"),
        ([IDS], {"instances": ()}, "instances is empty"),
        ([IDS], {"sampling": {"max_tokens": 3}}, "sampling is a SamplingParams"),
        ([IDS], {"sampling": SamplingParams(max_tokens="3")}, r"sampling.max_tokens"),
        ([IDS], {"sampling": SamplingParams(max_tokens=-1)}, r"sampling.max_tokens"),
        ([IDS], {"sampling": SamplingParams(temperature=math.nan)}, r"sampling.temperature"),
        ([IDS], {"sampling": SamplingParams(top_p=0.0)}, r"sampling.top_p"),
        ([IDS], {"sampling": SamplingParams(min_p=2.0)}, r"sampling.min_p"),
        ([IDS], {"sampling": SamplingParams(repetition_penalty=0.0)}, r"repetition_penalty"),
        ([IDS], {"sampling": SamplingParams(allowed_token_ids=(128,))}, "token id 128"),
        ([IDS], {"sampling": SamplingParams(logit_bias=((130, 1.0),))}, "token id 130"),
        ([IDS], {"sampling": SamplingParams(bad_words=((5, 129),))}, "token id 129"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(llm, answer, prompts, given_, said):
    with pytest.raises(LendKVError, match=said):
        llm.generate(prompts, **({"sampling": RIGHT} | given_))
    assert llm.generate([IDS], RIGHT)[0].token_ids == answer
    llm.check()


def test_instances_may_be_a_keyword(tiny):
    made = LLM(None, "instances=2", "pool.num_blocks=64", instances=3, checkpoint=tiny)
    assert [pool.num_blocks for pool in made.pools] == [64] * 3
    made.close()
    with pytest.raises(ConfigError, match="a Config is taken as it is"):
        LLM(load(None), instances=3, checkpoint=tiny)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"instances": 0}, "instances is 0; 1 to"),
        ({"instances": "many"}, "instances"),
        ({"tp": 2}, "tp=2 is for instances in processes"),
        (
            {"model": "smollm2"},
            "LLM takes no keyword model: values .* as 'pool.num_blocks=64', and",
        ),
        ({"b": 1, "a": 2}, "no keyword a, b: .* keywords are instances, tp, threads, attention"),
    ],
)
def test_keywords_that_are_no_parts_are_refused(given_, said):
    with pytest.raises(ConfigError, match=said):
        LLM(None, **given_)


def test_numbers_of_numpy_are_token_ids(llm, answer):
    assert llm.generate([np.array(IDS)], RIGHT)[0].token_ids == answer


def test_ctrl_c_in_the_middle_leaves_nothing(llm, answer):
    def interrupt(*_):
        llm.on_message = None
        raise KeyboardInterrupt

    llm.on_message = interrupt
    with pytest.raises(KeyboardInterrupt):
        llm.generate([IDS, IDS], greedy(50), instances=(0, 1))
    (completion,) = llm.generate([IDS], RIGHT)
    assert completion.token_ids == answer
    assert_all_returned(llm)


def test_a_closed_one_says_so_and_may_be_closed_again(tiny):
    llm = cluster(tiny)
    llm.close()
    llm.close()
    with pytest.raises(LendKVError, match="was closed: make another"):
        llm.generate([IDS], RIGHT)


@pytest.mark.parametrize("overrides", [[["instances=3"]], [3]])
def test_overrides_are_texts(overrides):
    with pytest.raises(ConfigError, match="overrides are texts such as"):
        LLM(None, *overrides)


@pytest.mark.parametrize("part", ["attention", "placement"])
def test_a_class_that_is_no_part_is_named(tiny, part):
    with pytest.raises(ConfigError, match="int is no part"):
        LLM(load(None, []), checkpoint=tiny, **{part: int})


@given(
    top_k=st.integers(-1, COUNT),
    seed=st.integers(-(1 << 63), (1 << 63) - 1),
    temperature=st.floats(0, 100),
    top_p=st.floats(0, 1, exclude_min=True),
    max_tokens=st.integers(1, COUNT),
)
def test_whatever_a_recipe_may_ask_for_a_step_takes(**wanted):
    config = load(None, [f"generate.{name}={value!r}" for name, value in wanted.items()])
    sampling = Generate(config, None, as_json=True).sampling
    message = Submit(Request(request_id="0", prompt_ids=(1,), sampling=sampling))
    assert TO_STEP(encode(message)) == message


def test_more_staging_than_half_of_the_pool_is_refused(tiny):
    options = ["attention.options.way=copy", "attention.options.staging_blocks=33"]
    with pytest.raises(ConfigError, match="staging_blocks=33 .* 64 blocks"):
        cluster(tiny, *options)
