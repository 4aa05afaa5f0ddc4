"""Every mistake in the options is one sentence, said before anything is sent; no traceback."""

import subprocess
import sys

import pytest

from engine.cli import main

WRONG = {
    "a verb that is none": ("bench latency", "invalid choice: 'latency'"),
    "no verb": ("bench", "serve"),
    "an option that is none": ("bench serve --nope", "unknown option --nope"),
    "key=value": ("bench serve seed=1", "'seed=1' is not known to bench serve"),
    "no number": ("bench serve --seed x", "--seed: invalid int value: 'x'"),
    "nothing": ("bench serve --num-prompts 0", "--num-prompts is 0"),
    "rate": ("bench serve --request-rate nan", "--request-rate is nan"),
    "ramp with a rate": (
        "bench serve --ramp-up-strategy linear --ramp-up-end-rps 5 --request-rate 3",
        "leave out --request-rate",
    ),
    "ramp downwards": (
        "bench serve --ramp-up-strategy linear --ramp-up-start-rps 5 --ramp-up-end-rps 2",
        "it has to grow",
    ),
    "ramp from zero": (
        "bench serve --ramp-up-strategy exponential --ramp-up-end-rps 2",
        "cannot start at 0",
    ),
    "half a ramp": ("bench serve --ramp-up-end-rps 2", "need --ramp-up-strategy"),
    "percentile": ("bench serve --metric-percentiles 50,101", "'101'"),
    "metric": ("bench serve --percentile-metrics ttft,ttlt", "'ttlt'"),
    "goodput": ("bench serve --goodput ttft:500 itl:3", "'itl:3'"),
    "header": ("bench serve --header plain", "wanted is KEY=VALUE"),
    "url": ("bench serve --base-url localhost:8000", "http://127.0.0.1:8000"),
    "port": ("bench serve --port 99999", "'http://127.0.0.1:99999' is no server's address"),
    "host": ("bench serve --host no.such.invalid", "no server answers at http://no.such.invalid"),
    "extra body": ("bench serve --extra-body [1]", "wanted is a JSON object"),
    "no file": ("bench serve --dataset-name custom", "needs --dataset-path"),
    "no such file": (
        "bench serve --dataset-name timed_trace --dataset-path /no/trace.csv",
        "there is no such file",
    ),
    "times of no trace": ("bench serve --self-timed", "needs --dataset-name timed_trace"),
    "no server": ("bench serve --port 1", "no server answers at http://127.0.0.1:1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_sentence(name, capsys):
    argv, said = WRONG[name]
    assert main(argv.split()) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
    assert err.startswith("lendkv: ")


def test_all_mistakes_are_told_at_once(capsys):
    argv = "bench serve --num-prompts 0 --burstiness 0 --goodput x"
    assert main(argv.split()) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_pictures_need_matplotlib():
    program = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from importlib import util; util.find_spec = lambda name: None\n"
        "from engine.cli import main; sys.exit(main(['bench', 'serve', '--plot']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'lendkv[plots]'" in done.stderr
