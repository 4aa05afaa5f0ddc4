"""Clients that others wrote, unchanged and in a venv of their own, get from our server what its
model says: litellm, lm-eval, guidellm.
"""

import json

import pytest
from outside import HERE, needs_clients, run, run_json
from served import Server, chat_ids, ids_of, make_chatting_checkpoint, text_of
from tiny_models import reference_logits, reference_tokens

pytestmark = needs_clients
QUESTIONS = ["What is a pool?", "What is a step?", "Who holds the tail?", "Who lends?"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = make_chatting_checkpoint(tmp_path_factory.mktemp("clients") / "model")
    with Server(model, 2) as server:
        yield server
    assert server.said == ""


def expected(server, ids, num_tokens=12):
    return text_of(reference_tokens(server.model, ids, num_tokens))


def test_litellm(server, tmp_path):
    got = run_json(tmp_path, "python", HERE / "talk_litellm.py", f"{server.url}/v1")
    answer = {
        "text": expected(server, chat_ids("hi")),
        "finish": "length",
        "usage": [len(chat_ids("hi")), 12],
    }
    for way in ("openai", "hosted_vllm", "stream", "async stream"):
        assert got[way] == answer, way
    assert got["async"] == [answer] * 4
    assert got["completion"] == expected(server, ids_of("hi"))
    assert got["refused"] == 404


def lm_eval(server, tmp_path, task, docs, *arguments):
    """Its results, and the samples that it logs, by document."""
    (tmp_path / "docs.json").write_text(json.dumps(docs))
    (tmp_path / "tasks").mkdir()
    text = (HERE / f"lm_eval_{task}.yaml").read_text()
    (tmp_path / "tasks" / f"{task}.yaml").write_text(
        text.replace("DOCS", str(tmp_path / "docs.json"))
    )
    model = f"base_url={server.url}/v1/completions,model=tiny,num_concurrent=2,max_retries=1"
    command = ["lm_eval", "run", "--model", "local-completions", "--tasks", f"lendkv_{task}"]
    command += ["--include_path", str(tmp_path / "tasks"), "--log_samples"]
    command += ["--output_path", str(tmp_path / "out")]
    run(tmp_path, *command, "--model_args", ",".join([model, *arguments]))
    (results,) = (tmp_path / "out").glob("*/results_*.json")
    (samples,) = (tmp_path / "out").glob("*/samples_*.jsonl")
    lines = [json.loads(line) for line in samples.read_text().split("\n") if line]
    lines.sort(key=lambda line: line["doc_id"])
    return json.loads(results.read_text())["results"][f"lendkv_{task}"], lines


def test_lm_eval_generates(server, tmp_path):
    said = [expected(server, ids_of(question)).split("\n\n")[0] for question in QUESTIONS]
    pairs = zip(QUESTIONS, said, strict=True)
    docs = [{"question": question, "answer": text} for question, text in pairs]
    docs[1]["answer"] = "something else"
    results, lines = lm_eval(server, tmp_path, "generate", docs, "tokenizer_backend=none")
    assert [line["resps"][0][0] for line in lines] == said
    assert results["exact_match,none"] == 0.75


def log_likelihood(server, question, choice):
    """Of the choice behind the question, by transformers."""
    begin, ids = ids_of(question), ids_of(f"{question} {choice}")
    rows = reference_logits(server.model, ids).double().log_softmax(-1)
    return sum(float(rows[at - 1, ids[at]]) for at in range(len(begin), len(ids)))


def test_lm_eval_compares_log_likelihoods(server, tmp_path):
    """The tokens of the prompt are scored (echo); text is encoded by the server's own routes."""
    choices = ["one block", "two", "the cluster"]
    expected = [[log_likelihood(server, q, choice) for choice in choices] for q in QUESTIONS]
    best = [values.index(max(values)) for values in expected]
    best[2] = (best[2] + 1) % len(choices)
    docs = [
        {"question": question, "choices": choices, "gold": gold}
        for question, gold in zip(QUESTIONS, best, strict=True)
    ]
    results, lines = lm_eval(server, tmp_path, "choose", docs, "tokenizer_backend=remote")
    assert results["acc,none"] == 0.75
    for line, values in zip(lines, expected, strict=True):
        got = [float(response[0][0]) for response in line["resps"]]
        assert got == pytest.approx(values, abs=2e-3)


def test_guidellm(server, tmp_path):
    """Eight requests, as many as it asked for, each with the tokens that it wanted."""
    command = ["guidellm", "run", "--disable-console"]
    command += ["--backend", f"kind=openai_http,target={server.url},model=tiny"]
    command += ["--profile", "kind=constant,rate=5", "--constraint", "kind=max_requests,count=8"]
    command += ["--data", "kind=synthetic_text,prompt_tokens=24,output_tokens=8"]
    command += ["--tokenizer", f"kind=hf_auto,model={server.model}"]
    run(tmp_path, *command, "--output", f"kind=json,path={tmp_path / 'run.json'}")
    (benchmark,) = json.loads((tmp_path / "run.json").read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert totals == {"successful": 8, "errored": 0, "incomplete": 0, "total": 8}
    for request in benchmark["requests"]["successful"]:
        assert request["output_tokens"] == 8
        assert request["prompt_tokens"] > 24
        assert request["time_to_first_token_ms"] > 0


def test_the_clients_are_those_that_are_pinned(tmp_path):
    freeze = run(tmp_path, "python", "-m", "pip", "freeze").lower().replace("_", "-")
    for line in (HERE / "requirements.txt").read_text().splitlines():
        if not line.startswith("#"):
            assert line.replace("[api]", "") in freeze.splitlines()
