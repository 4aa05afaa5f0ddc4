"""A user's mistake ends with one sentence on stderr, no traceback and no process left behind."""

import json
import shutil
import socket
from pathlib import Path

import pytest
from command import Command
from tiny_checkpoint import PROMPT, make_tiny_checkpoint

from engine import operating
from engine.cli import main
from engine.errors import ConfigError
from engine.serve import listen


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture
def recipe(tmp_path, model):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"instances: 2\nmodel: {{path: {model}, dtype: float32}}\n"
        "pool: {num_blocks: 24, block_tokens: 8}\nscheduler: {max_step_tokens: 32}\n"
        "generate: {max_tokens: 8, compare: false}\n"
    )
    return path


def refused(recipe, *args, processes=2, prompt=PROMPT, **environment):
    asked = [] if prompt is None else ["--prompt", prompt]
    command = Command("generate", recipe, *args, *asked, processes=processes, **environment)
    done = command.finish()
    assert "Traceback" not in done.err + done.out, done.err
    assert done.status == (0 if processes else 2), done.err
    assert done.sentences
    return done


@pytest.mark.parametrize("processes", [0, 2])
def test_all_mistakes_of_a_configuration_are_told_at_once(recipe, processes):
    done = refused(
        recipe,
        "attention.options.wey=copy",
        "placement.name=nowhere",
        "transport.options.ports=1",
        "pool.kernel=magic",
        "pool.name=heap",
        processes=processes,
    )
    assert len(done.sentences) == 5, done.err
    for word in ("wey", "nowhere", "ports", "magic", "heap"):
        assert sum(word in line for line in done.sentences) == 1
    assert "did you mean 'way'" in done.err


@pytest.mark.parametrize("override", ["transport.name=loopback", "pool.num_block=3", "threads=x"])
def test_one_bad_override_is_one_sentence(recipe, override):
    assert len(refused(recipe, override, processes=0).sentences) == 1


def test_a_bad_attention_option_alone_ends_all_ranks(recipe):
    done = refused(recipe, "attention.options.wey=copy")
    assert len(done.sentences) == 1
    assert "allowed at the top: bits, local" in done.err


def test_a_missing_recipe_a_missing_model_and_a_missing_prompt(recipe, tmp_path):
    assert "does not exist" in refused(tmp_path / "no.yaml", processes=0).err
    assert "does not exist" in refused(recipe, "model.path=/no/model", processes=0).err
    assert "there is no prompt" in refused(recipe, processes=2, prompt=None).err


def test_a_wrong_number_of_processes_names_both(recipe):
    done = refused(recipe, "instances=3")
    assert "instances is 3 and 2 processes were started" in done.err


def test_a_truncated_checkpoint_is_named(recipe, model, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    done = refused(recipe, f"model.path={broken}", "instances=1", processes=0)
    assert "model.safetensors" in done.err


@pytest.mark.parametrize("processes", [0, 2])
def test_a_prompt_longer_than_the_positions_is_refused_with_numbers(recipe, processes):
    done = refused(recipe, processes=processes, prompt=3 * PROMPT)
    assert str(3 * len(PROMPT)) in done.err
    assert "512" in done.err


def test_a_prompt_that_the_cluster_cannot_hold_is_refused_with_numbers(recipe):
    done = refused(recipe, "pool.num_blocks=12", "scheduler.max_step_tokens=16")
    assert "needs 32 blocks" in done.err
    assert "12" in done.err


def test_a_host_of_another_machine_ends_all_ranks(recipe):
    assert "192.0.2.1" in refused(recipe, "cluster.host=192.0.2.1").err


@pytest.mark.parametrize(
    ("override", "said"),
    [("pool.num_blocks=100000000", "bytes of memory"), ("pool.name=reference", "pool.name=paged")],
)
def test_a_pool_that_cannot_be_is_refused(recipe, override, said):
    assert said in refused(recipe, override).err


def test_no_compiler_and_no_cache_folder_are_told(recipe, tmp_path):
    done = refused(
        recipe, "instances=1", processes=0, PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path)
    )
    assert "needs a C++ compiler" in done.err
    file = tmp_path / "file"
    file.touch()
    done = refused(recipe, "instances=1", processes=0, XDG_CACHE_HOME=str(file))
    assert "set XDG_CACHE_HOME" in done.err


@pytest.mark.parametrize(
    "override",
    [
        "attention.options.local=sdpa",
        "attention.options.local=reference",
        "attention.options.local=numpy",
        "placement.name=local_only",
        "transport.name=tcp",
        "pool.kernel=numpy",
    ],
)
def test_a_part_is_swapped_by_an_override_alone(recipe, override):
    done = Command(
        "generate",
        recipe,
        "instances=1",
        "pool.num_blocks=64",
        "--json",
        override,
        "--prompt",
        PROMPT,
    ).finish()
    assert done.status == 0, done.err
    assert len(json.loads(done.out)["token_ids"]) == 8


def test_print_config_shows_the_merged_tree(recipe):
    done = Command("generate", recipe, "--print-config", "threads=3").finish()
    assert (done.status, done.err) == (0, "")
    assert "threads: 3" in done.out
    assert Path(recipe).exists()


@pytest.mark.parametrize("prompt", ["???", "${HOME} \\${x}", "\U0001f600 \x7f"])
def test_any_prompt_is_taken_as_it_is_and_goes_before_the_recipes(recipe, prompt, tmp_path):
    (tmp_path / "prompt.txt").write_text("of the recipe")
    recipe.write_text(recipe.read_text().replace("max_tokens: 8", "prompt_file: prompt.txt"))
    args = ["generate", recipe, "instances=1", "generate.max_tokens=1", "generate.chat=false"]
    done = Command(*args, "--json", "--prompt", prompt).finish()
    assert done.status == 0, done.err
    assert json.loads(done.out)["prompt_tokens"] == len(prompt.encode())


def test_two_prompts_and_no_text_are_refused(recipe):
    assert "not allowed with" in refused(recipe, "--prompt-file", "x", processes=0).err
    assert "not UTF-8" in refused(recipe, processes=0, prompt="a\udcff").err


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["plan", "devices=3"], "devices: 3"),
        (["simulate", "seeds=7"], "seeds: 7"),
        (["simulate", "mode=performance", "limit_s=5"], "limit_s: 5"),
    ],
)
def test_print_config_shows_what_a_simulator_would_take_and_runs_nothing(capsys, words, shown):
    assert main([*words, "--print-config"]) == 0
    said = capsys.readouterr()
    assert shown in said.out.splitlines() or f"{shown}.0" in said.out.splitlines()
    assert not said.err


def test_a_second_recipe_is_told(recipe):
    assert "there is one recipe only" in refused(recipe, str(recipe), processes=0).err


@pytest.mark.parametrize(("verb", "wants"), [("evacuate", "INSTANCE"), ("explain", "REQUEST")])
def test_help_names_what_a_verb_wants(capsys, verb, wants):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    said = capsys.readouterr().out
    assert f"[{wants}] [key=value ...]" in said
    assert "torchrun" not in said


@pytest.mark.parametrize("words", [["evacuate", "2"], ["lending"]])
def test_where_no_planner_is_it_is_said_soon(monkeypatch, capsys, words):
    monkeypatch.setenv("LENDKV_KEY", "a key that only members know")
    monkeypatch.setattr(operating, "ANSWER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # it takes connections and is silent
        where = f"127.0.0.1:{listener.getsockname()[1]}"
        assert main([*words, f"cluster.join={where}"]) == 2
    said = capsys.readouterr().err
    assert f"no planner answers at cluster.join={where} within 0.1 s: give the address" in said


def test_a_port_that_only_root_may_bind_is_told(monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ConfigError, match="1:80 .Permission denied.; .* from 1024, .*CAP_NET_BIND"):
        listen("127.0.0.1", 80)
