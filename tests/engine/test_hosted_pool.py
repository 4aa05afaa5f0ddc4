"""The pool's role on a thread: reached, heard, left, and fatal to its process when it fails."""

import os
from multiprocessing.connection import Connection, Pipe

import pytest

from engine.errors import ConfigError, LendKVError
from engine.hosted_pool import HostedPool


def serve(pipe: Connection) -> int:
    """Like roles.pool: says where it is, and that it lends no more; ends when told to."""
    pipe.send({"pool": "here"})
    pipe.send({"lends": False})
    assert pipe.recv() == {"leave": True}
    return 0


def test_what_it_says_is_passed_on_and_it_leaves_when_told() -> None:
    hosted = HostedPool(serve, "cpu")
    assert hosted.address == "here"
    hosted.leave()
    ours, theirs = Pipe()
    hosted.pass_on(theirs)
    assert ours.recv() == {"lends": False}
    assert not ours.poll()
    assert not hosted._thread.is_alive()


def test_what_it_fails_with_at_its_start_is_raised() -> None:
    def refuse(pipe: Connection) -> int:
        raise ConfigError("no such address")

    with pytest.raises(LendKVError, match="no such address"):
        HostedPool(refuse, "cpu")


@pytest.mark.parametrize("raises", [False, True])
def test_the_process_ends_with_it(raises: bool) -> None:
    """A step without its pool would wait for ever: its supervisor starts both again."""

    def fail(pipe: Connection) -> int:
        pipe.send({"pool": "here"})
        if raises:
            raise RuntimeError("as a test wants it")
        return 1

    child = os.fork()
    if not child:
        HostedPool(fail, "cpu")._thread.join()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
