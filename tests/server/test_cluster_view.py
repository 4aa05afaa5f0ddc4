"""``GET /cluster`` of a true server: both sides of its loans agree, and where requests lie."""

import pytest
from served import Server, ids_of, make_chatting_checkpoint


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two instances; each pool holds 384 tokens."""
    model = make_chatting_checkpoint(tmp_path_factory.mktemp("served") / "model")
    server = Server(model, 2, "pool.num_blocks=48", "callbacks=[tests.server.slow_steps:SlowSteps]")
    try:
        server.wait_until(server.ready)
        yield server
    finally:
        said = server.stop()
    assert "Traceback" not in said


def look(server):
    return server.http.get("/cluster").json()


def test_a_borrowing_request_is_seen_from_both_sides(server):
    prompt = ids_of("borrowed " * 33)
    stream = server.openai.completions.create(
        model="tiny", prompt=prompt, max_tokens=200, temperature=0, stream=True
    )
    first = next(stream)
    seen = {}

    def is_lent():
        seen.update(look(server))
        ledger = seen["ledger"]
        return ledger["lent"] and ledger["lent"] == ledger["borrowed"] and seen["requests"]

    server.wait_until(is_lent)
    [request] = seen["requests"]
    owner = request["instance"]
    [loan] = seen["ledger"]["loans"]
    assert (loan["debtor"], loan["creditor"]) == (owner, 1 - owner)
    assert loan["lent"] == loan["borrowed"] == seen["ledger"]["lent"]
    debtor, creditor = seen["instances"][owner], seen["instances"][1 - owner]
    assert debtor["borrowed_from"] == {str(1 - owner): loan["borrowed"]}
    assert creditor["lent_to"] == {str(owner): loan["lent"]}
    assert creditor["free"] + creditor["lent"] + creditor["used"] <= creditor["blocks"] == 48
    assert request["id"] == first.id
    assert request["prompt_tokens"] == len(prompt)
    assert request["attempt"] == 1
    assert request["age_s"] > 0
    for _ in stream:
        pass

    def is_over():
        seen.update(look(server))
        return not seen["requests"] and not seen["ledger"]["loans"]

    server.wait_until(is_over)
    assert seen["ledger"] == {"lent": 0, "borrowed": 0, "loans": []}
    assert seen["block_tokens"] == 8
    assert seen["rates"]["output_tokens_per_s"] > 0
    assert seen["rates"]["ttft_s"] > 0


def test_each_instances_own_port_shows_the_same_ledger(server):
    found = server.http.get(f"http://127.0.0.1:{server.port + 1}/cluster").json()
    assert found["ledger"] == {"lent": 0, "borrowed": 0, "loans": []}
    assert [one["id"] for one in found["instances"]] == [0]
