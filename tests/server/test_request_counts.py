"""What the gateway counts of requests that end: each once, the choices of a prompt together."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from engine.core import Request, SamplingParams
from engine.protocol import View
from engine.scheduler.entry import Entry
from engine.scheduler.request_table import RequestTable
from engine.server.journal import Terms
from engine.server.metrics import Metrics


def counted(metrics):
    text = metrics.text(RequestTable(block_tokens=4), [], View([], [])).decode()
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for one in families for sample in one.samples}


@given(
    asked=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=5),
    order=st.randoms(use_true_random=False),
)
def test_n_is_counted_once_for_each_prompt_whatever_ends_first(asked, order):
    metrics = Metrics("tiny")
    ends = []
    for n, num_prompts in asked:
        for index in range(n * num_prompts):
            request = Request(
                request_id=f"r/{index}", prompt_ids=(1,), sampling=SamplingParams(max_tokens=3)
            )
            entry = Entry(request, 0.0, finish_reason="length", instance=0)
            ends.append((entry, Terms(index=index, choices=n * num_prompts, n=n)))
    order.shuffle(ends)
    for entry, terms in ends:
        metrics.ended(entry, terms)
    found = counted(metrics)
    assert found["vllm:request_params_n_count"] == sum(number for _, number in asked)
    assert found["vllm:request_params_n_sum"] == sum(n * number for n, number in asked)
    assert found["vllm:request_params_max_tokens_count"] == len(ends)
