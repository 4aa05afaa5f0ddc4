"""Standard output that is closed, full, or left by its reader: a status, and at most a sentence."""

import errno

import pytest
from command import Command
from tiny_checkpoint import make_tiny_checkpoint

from engine.output import guarded

FULL = "lendkv: the output cannot be written: No space left on device; make room there\n"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    path = folder / "recipe.yaml"
    path.write_text(
        f"instances: 1\nmodel: {{path: {make_tiny_checkpoint(folder / 'model')}, dtype: float32}}\n"
        "pool: {num_blocks: 24, block_tokens: 8}\nscheduler: {max_step_tokens: 32}\n"
        "generate: {prompt: hello, max_tokens: 2, compare: false}\n"
    )
    return path


def redirected(how, *args):
    """The command as a shell starts it that redirects what it prints."""
    return Command(*args, prefix=("sh", "-c", f'exec "$@" {how}', "sh")).finish()


@pytest.mark.parametrize(
    "words",
    ["doctor", "doctor --print-config", "generate", "generate --json", "generate instances=2"],
)
def test_a_reader_that_leaves_ends_a_command_without_a_traceback(recipe, words):
    verb, *rest = words.split()
    command = Command(verb, recipe, *rest)
    command.process.stdout.close()
    done = command.finish()
    assert (done.status, done.err) == (141, "")


def test_a_reader_that_leaves_ends_ranks_without_a_traceback_of_torchruns(recipe):
    command = Command("generate", recipe, "instances=2", processes=2)
    command.process.stdout.close()
    done = command.finish()
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize(
    "words",
    ["doctor", "doctor --print-config", "generate", "generate --json", "generate instances=2"],
)
def test_a_full_disk_is_a_sentence(recipe, words):
    verb, *rest = words.split()
    done = redirected("> /dev/full", verb, recipe, *rest)
    assert (done.status, done.err) == (2, FULL)


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("verb", ["doctor", "generate"])
def test_where_nobody_listens_a_command_does_its_work(recipe, verb, closed):
    assert redirected(closed, verb, recipe).status == 0


@pytest.mark.parametrize("encoding", ["ascii", "ascii:surrogateescape"])
def test_letters_that_a_terminal_does_not_have_are_told_by_their_numbers(recipe, encoding):
    """The second one is Python's where the locale is unknown."""
    words = ["doctor", recipe, "--print-config", "serve.model_name=\xe4\u4e2d"]
    done = Command(*words, PYTHONIOENCODING=encoding).finish()
    assert (done.status, done.err) == (0, "")
    assert r"model_name: \xe4\u4e2d" in done.out


def test_other_errors_stay_what_they_are():
    def fail():
        raise OSError(errno.EBADMSG, "a mistake of ours")

    with pytest.raises(OSError, match="a mistake of ours"):
        guarded(fail)
