"""Logprobs of answers and prompts are those of the library transformers, wherever keys lie."""

import math
from collections.abc import Sequence

import pytest
import torch
from cluster_harness import cluster, prompt, run_all
from tiny_models import reference_logits

from engine.core import Request, SamplingParams, Score
from engine.llm import LLM
from engine.protocol import HandedOver, Message, PromptScores, Tokens
from engine.scheduler import batch

CLOSE = 1e-3


class Heard:
    """What the clients of an engine were told, in order and exactly once."""

    def __init__(self, llm: LLM) -> None:
        self.tokens: dict[str, list[int]] = {}
        self.scores: dict[str, list[Score]] = {}
        self.prompt_scores: dict[str, list[Score]] = {}
        self.first: dict[str, int] = {}
        llm.on_message = self.hear

    def hear(self, name: str, message: Message) -> None:
        match message:
            case Tokens():
                assert message.index == self.first.get(name, 0) + len(self.tokens.get(name, []))
                self.tokens.setdefault(name, []).extend(message.token_ids)
                self.scores.setdefault(name, []).extend(message.scores)
            case PromptScores():
                known = self.prompt_scores.setdefault(name, [])
                assert message.index == len(known)
                assert not self.tokens.get(name), "the prompt comes before the answer"
                known.extend(message.scores)
            case HandedOver():
                raise AssertionError(message)


def submit(llm: LLM, name: str, ids: Sequence[int], instance: int = 0, **sampling: object) -> None:
    answer_ids = sampling.pop("answer_ids", ())
    wanted = SamplingParams(**({"max_tokens": 6, "ignore_eos": True} | sampling))
    request = Request(
        request_id=name, prompt_ids=tuple(ids), answer_ids=tuple(answer_ids), sampling=wanted
    )
    llm.submit(request, instance)


def assert_close(scores: list[Score], rows: torch.Tensor, ids: Sequence[int], num_top: int) -> None:
    """Against float32 logits ``[T, V]`` of the library; rows and ids go together."""
    truth = torch.log_softmax(rows.double(), -1)
    assert len(scores) == len(ids) == len(rows)
    for score, row, token in zip(scores, truth, ids, strict=True):
        assert math.isclose(score.logprob, float(row[token]), abs_tol=CLOSE)
        assert len(score.top) == num_top
        wanted = torch.topk(row, num_top).values.tolist()
        assert [pair[1] for pair in score.top] == pytest.approx(wanted, abs=CLOSE)
        assert abs(score.rank - 1 - int((row > row[token] + CLOSE).sum())) <= 1


@pytest.mark.parametrize(
    "overrides",
    [
        ["scheduler.max_step_tokens=256"],
        ["scheduler.max_step_tokens=7"],
        ["instances=3", "pool.num_blocks=20", "scheduler.max_step_tokens=12"],
    ],
    ids=["one chunk", "many chunks", "lent"],
)
def test_logprobs_are_those_of_transformers(tiny, tiny_path, overrides, monkeypatch):
    """Three requests at once; only a few rows are scored in a step."""
    monkeypatch.setattr(batch, "MAX_SCORED_ROWS", 50)
    llm = cluster(tiny, *overrides)
    heard = Heard(llm)
    prompts = {name: prompt(length, length) for name, length in (("a", 130), ("b", 17), ("c", 5))}
    submit(llm, "a", prompts["a"], logprobs=5, prompt_logprobs=2)
    submit(llm, "b", prompts["b"], logprobs=0, prompt_logprobs=0, temperature=1.5, seed=5)
    submit(llm, "c", prompts["c"])
    run_all(llm)
    for name, num_top, num_prompt_top in (("a", 5, 2), ("b", 0, 0)):
        ids, answer = prompts[name], heard.tokens[name]
        rows = reference_logits(tiny_path, [*ids, *answer])
        last = len(ids) - 1
        assert_close(heard.prompt_scores[name], rows[:last], ids[1:], num_prompt_top)
        assert_close(heard.scores[name], rows[last:-1], answer, num_top)
    assert len(heard.tokens["c"]) == 6
    assert "c" not in heard.prompt_scores
    assert not heard.scores["c"]
    if len(llm.loops) > 1:
        assert sum(loop.scheduler.loads.relief["loans"] for loop in llm.loops)
    llm.close()


def test_a_lost_holder_costs_no_score_and_doubles_none(tiny, tiny_path):
    """Its blocks are computed again while the prompt is still being scored."""
    llm = cluster(tiny, "instances=3", "pool.num_blocks=20", "scheduler.max_step_tokens=8")
    heard = Heard(llm)
    ids = prompt(120, 3)
    submit(llm, "a", ids, prompt_logprobs=1, logprobs=1)
    holders: set[int] = set()

    def kill_a_holder() -> None:
        running = llm.loops[0].scheduler.running
        holders.update(*(sequence.holders() for sequence in running))
        if len(heard.prompt_scores.get("a", [])) > 60 and not llm._dead and holders - {0}:
            llm.kill(max(holders))

    run_all(llm, kill_a_holder)
    assert llm._dead
    rows = reference_logits(tiny_path, [*ids, *heard.tokens["a"]])
    assert_close(heard.prompt_scores["a"], rows[: len(ids) - 1], ids[1:], 1)
    assert_close(heard.scores["a"], rows[len(ids) - 1 : -1], heard.tokens["a"], 1)
    llm.close()


SAMPLING = {
    "temperature": 1.2,
    "seed": 11,
    "top_p": 0.95,
    "min_p": 0.01,
    "min_tokens": 9,
    "presence_penalty": 0.6,
    "frequency_penalty": 0.3,
    "repetition_penalty": 1.2,
    "logprobs": 2,
    "max_tokens": 14,
    "ignore_eos": False,
}


@pytest.mark.parametrize("known", [0, 1, 6, 13])
def test_an_answer_goes_on_behind_the_tokens_that_came(tiny, known):
    """Penalties, minimum, length, positions and scores count from the answer's beginning."""
    told = {}
    for again in (False, True):
        llm = cluster(tiny)
        heard = Heard(llm)
        if again:
            heard.first["a"] = known
            submit(llm, "a", prompt(20), **SAMPLING, answer_ids=told["tokens"][:known])
        else:
            submit(llm, "a", prompt(20), **SAMPLING)
        run_all(llm)
        llm.close()
        if not again:
            told = {"tokens": heard.tokens["a"], "scores": heard.scores["a"]}
    assert len(told["tokens"]) == SAMPLING["max_tokens"]
    assert heard.tokens["a"] == told["tokens"][known:]
    logprobs = [score.logprob for score in told["scores"][known:]]
    assert [score.logprob for score in heard.scores["a"]] == pytest.approx(logprobs, abs=1e-4)


def test_stop_ids_and_minimum(tiny):
    """Whatever would stop the answer waits until its minimum; then it does."""
    llm = cluster(tiny)
    heard = Heard(llm)
    submit(llm, "free", prompt(20))
    run_all(llm)
    stop = heard.tokens["free"][2]
    submit(llm, "stopped", prompt(20), stop_token_ids=(stop,))
    submit(llm, "late", prompt(20), stop_token_ids=(stop,), min_tokens=4)
    run_all(llm)
    first = heard.tokens["free"].index(stop)
    assert heard.tokens["stopped"] == heard.tokens["free"][: first + 1]
    assert stop not in heard.tokens["late"][:4]
    assert len(heard.tokens["late"]) >= 5
    llm.close()
