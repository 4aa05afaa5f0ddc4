"""Protects the oracle for answers of which several may be right: no wrong token passes as rounding.

And none is called wrong that another batch or other chunks would have given.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from launch.tiny_checkpoint import byte_tokenizer, make_tiny_checkpoint
from tiny_models import reference_tokens

from engine.chaos.clients import Answer
from engine.chaos.forced import TOLERANCE, Teacher, questions, said
from engine.chaos.oracle import pieces_of
from engine.config import load
from engine.core import ITEM_BYTES, SamplingParams
from engine.llm import LLM
from engine.model.tokenizer import Tokenizer

PROMPT = tuple((7 * n + n * n) % 256 for n in range(60))
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("forced") / "model")


def recipe(path, dtype, **changes):
    options = {"model.path": path, "model.dtype": dtype, "pool.block_tokens": 8, **changes}
    return load(None, [f"{key}={value}" for key, value in options.items()])


def wrong_at(path, dtype, prompt_ids, answer_ids):
    """Indexes in the answer of what the teacher calls wrong."""
    teacher = Teacher(recipe(path, dtype), len(prompt_ids) + len(answer_ids))
    wrong = teacher.wrong(prompt_ids, answer_ids)
    assert len(teacher.gaps(prompt_ids, answer_ids)) == len(answer_ids)
    teacher.close()
    return wrong


# --- the model's part ---------------------------------------------------------------------------


def test_what_transformers_says_is_right_and_any_other_token_is_wrong_where_it_stands(path):
    answer = reference_tokens(path, PROMPT, NUM_TOKENS)
    assert wrong_at(path, "float32", PROMPT, answer) == []
    for at in (0, 11, NUM_TOKENS - 1):
        changed = [*answer]
        changed[at] = (changed[at] + 1) % 256
        assert [one for one in wrong_at(path, "float32", PROMPT, changed) if one <= at] == [at]


@pytest.mark.parametrize("dtype", ITEM_BYTES)
def test_an_answer_made_in_other_chunks_and_batches_is_right(path, dtype):
    changes = {"scheduler.max_step_tokens": 7, "pool.num_blocks": 64}
    prompts = [PROMPT, PROMPT[:9], PROMPT[5:33]]
    sampling = SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True)
    done = LLM(recipe(path, dtype, **changes)).generate(prompts, sampling)
    for prompt, completion in zip(prompts, done, strict=True):
        assert wrong_at(path, dtype, prompt, completion.token_ids) == []


@pytest.mark.parametrize("dtype", ITEM_BYTES)
def test_an_answer_behind_other_keys_is_wrong(path, dtype):
    """One rBlock in the middle held somebody else's tokens."""
    other = [*PROMPT[:24], *range(8), *PROMPT[32:]]
    answer = reference_tokens(path, other, NUM_TOKENS)
    assert answer != reference_tokens(path, PROMPT, NUM_TOKENS)
    assert wrong_at(path, dtype, PROMPT, answer)


def test_every_dtype_has_a_tolerance_and_fewer_bits_a_larger_one():
    assert TOLERANCE.keys() == ITEM_BYTES.keys()
    assert TOLERANCE["float32"] < TOLERANCE["float16"] < TOLERANCE["bfloat16"] < 0.1


# --- the answers' form --------------------------------------------------------------------------


@given(st.dictionaries(st.integers(0, 6), st.lists(st.integers(0, 9), max_size=2)))
def test_an_answer_is_one_token_an_event_numbered_from_one(told):
    wanted = {1, 2, 3, 4}
    bad = {at for at in wanted if len(told.get(at, [])) != 1}
    bad |= {at for at in told.keys() - wanted if told[at]}
    ids, num_wrong = said(told, 4)
    assert num_wrong == len(bad)
    assert ids == (() if bad else tuple(told[at][0] for at in (1, 2, 3, 4)))


def test_equal_answers_are_judged_once_and_a_text_that_is_not_the_tokens_is_wrong():
    tokenizer = Tokenizer(byte_tokenizer(), None)

    def answer(ids, **facts):
        told_ids = {0: [], **{number: [one] for number, one in enumerate(ids, 1)}, 4: []}
        facts = {"told": pieces_of(tokenizer, ids), "finished": True} | facts
        return Answer("a", 0, 0.0, told_ids=told_ids, prompt_ids=(1, 2), **facts)

    one, again, other = answer([60, 61]), answer([60, 61]), answer([60, 62])
    strange = answer([60, 61], told=pieces_of(tokenizer, [60, 63]))
    short, unfinished = answer([60]), answer([60, 61], finished=False)
    asked = questions([one, again, other, strange, short, unfinished], tokenizer, 2)
    assert asked == {
        ((1, 2), (60, 61)): [one, again, strange],
        ((1, 2), (60, 62)): [other],
    }
    counted = [each.num_wrong for each in (one, again, other, strange, short, unfinished)]
    assert counted == [0, 0, 0, 1, 1, 0]
