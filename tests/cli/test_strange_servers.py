"""``lendkv explain`` where something else listens: a sentence that says so."""

import socket
import threading
from contextlib import contextmanager

import pytest

from engine.cli import main

OK = b"HTTP/1.1 200 OK\r\ncontent-length: "


@contextmanager
def answering(answer):
    """The port of a server that says these bytes to whoever comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            there, _ = listener.accept()
            with there:
                there.recv(1 << 16)
                there.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(60)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "broke off"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak HTTP"),
        (OK + b"20\r\n\r\n{}", "does not speak HTTP, or broke off"),
        (OK + b"2\r\n\r\n{}", "is no LendKV server"),
        (OK + b"2\r\n\r\n[]", "is no LendKV server"),
        (OK + b"2\r\n\r\nhi", "is no LendKV server"),
        (b"HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\nhi", "answers 404"),
    ],
)
def test_what_is_no_server_of_ours_is_named(capsys, answer, said):
    with answering(answer) as port:
        assert main(["explain", "cmpl-0", f"serve.port={port}"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert f"127.0.0.1:{port}" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("name", ["a/b", "\udcff", "\U0001f600", "?", "#", "%"])
def test_any_id_can_be_asked_for(capsys, name):
    body = b'{"error": {"message": "There is none."}}'
    with answering(b"HTTP/1.1 404 No\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)) as port:
        assert main(["explain", name, f"serve.port={port}"]) == 2
    assert "There is none." in capsys.readouterr().err
