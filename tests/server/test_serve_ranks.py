"""A server of instances with two tp ranks: every answer is whole and exact, through kills."""

import pytest
from served import Server, make_chatting_checkpoint, text_of
from test_serve_faults import LENGTHS, WANTED, Listener, all_exact, all_speak, prompt
from tiny_models import reference_tokens


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_chatting_checkpoint(tmp_path_factory.mktemp("ranks") / "model")


@pytest.mark.nightly
def test_streams_survive_the_kills_of_a_leader_and_of_a_follower(model):
    texts = [text_of(reference_tokens(model, prompt(i), WANTED[i])) for i in range(len(LENGTHS))]
    with Server(model, 2, "tp=2") as server:
        for victim, instance in (("rank", 0), ("step", 1)):
            pids = {role: server.pid_of(f"{role} {instance}") for role in ("step", "rank")}
            listeners = [Listener(server, client) for client in range(len(LENGTHS))]
            all_speak(listeners)
            server.kill(pids[victim])
            all_exact(server, listeners, texts)
            server.wait_until(server.ready)
            for role, pid in pids.items():
                assert server.pid_of(f"{role} {instance}") != pid
            name = "rank 1" if victim == "rank" else "step"
            assert f"instance {instance}: the {name} process ended" in server.errors()
