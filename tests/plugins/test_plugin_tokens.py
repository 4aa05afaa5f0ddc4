"""Parts outside the engine, chosen by "module:Class": the tokens stay those of transformers."""

import random
import re
from pathlib import Path
from typing import Any

import pytest
from example_attention import MatmulBackend
from example_callback import Watch
from example_placement import KeepTail
from example_pool import FilePool
from tiny_models import make_tiny, reference_tokens

from engine.build import check_parts
from engine.build_attention import attention_parts
from engine.config import load
from engine.core import SamplingParams
from engine.errors import ConfigError
from engine.llm import LLM, Completion

RECIPE = str(Path(__file__).with_name("example_recipe.yaml"))
PROMPT = [random.Random(7).randrange(128) for _ in range(100)]
NUM_TOKENS = 12
PARTS = {
    "attention": ["attention.options.local=example_attention:MatmulBackend"],
    "pool": ["pool.name=example_pool:FilePool"],
    "placement": ["placement.name=example_placement:KeepTail", "placement.options.keep=6"],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("plugins") / "model")


def run(model: Path, recipe: str | None, *overrides: str, **parts: Any) -> Completion:
    size = ["instances=3", "pool.num_blocks=20", "pool.block_tokens=4"]
    size += [f"model.path={model}", "model.dtype=float32", "scheduler.max_step_tokens=16"]
    config = load(recipe, [*size, *overrides])
    llm = LLM(config, **parts)
    sampling = SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True)
    (completion,) = llm.generate([PROMPT], sampling)
    llm.check()
    llm.close()
    assert completion.report is not None
    assert set(completion.report.holders) > {0}, "nothing was lent"
    assert completion.token_ids == reference_tokens(model, PROMPT, NUM_TOKENS)
    return completion


@pytest.mark.parametrize("part", PARTS)
def test_an_own_part_gives_the_tokens_of_transformers(model, part):
    run(model, None, *PARTS[part])


@pytest.mark.parametrize("way", ["query", "mapped", "copy"])
def test_own_parts_work_together_for_each_way(model, way):
    staging = ["attention.options.staging_blocks=20"] if way == "copy" else []
    size = "pool.num_blocks=44" if way == "copy" else "pool.num_blocks=20"
    done = run(model, RECIPE, f"attention.options.way={way}", *staging, size)
    assert way in done.report.steps_by_way


def test_an_own_local_backend_may_be_named_as_attention(model):
    own = ["attention.name=example_attention:MatmulBackend", "attention.options.precision=float64"]
    run(model, None, *own)


def test_own_parts_may_be_given_as_classes_and_objects(model):
    tail = KeepTail(KeepTail.Config(keep=6))
    run(model, None, attention=MatmulBackend, pool=FilePool, placement=tail)


def test_the_own_placement_lends_in_turn_all_but_the_tail(model):
    holders = run(model, None, *PARTS["placement"]).report.holders
    assert holders[:4] == [1, 2, 1, 2]
    assert holders.count(1) - holders.count(2) in (0, 1)
    assert set(holders[-6:]) == {0}


def test_an_own_callback_hears_of_steps_and_loans(model):
    watch = Watch(slow_s=1e9)
    holders = run(model, None, *PARTS["placement"], callbacks=[watch]).report.holders
    assert watch.num_rows == len(PROMPT) + NUM_TOKENS - 1
    assert watch.slow_steps == []
    lent = {instance: holders.count(instance) for instance in (1, 2)}
    assert watch.borrowed_blocks == lent


def test_each_instance_makes_the_callbacks_that_its_recipe_names(model, monkeypatch):
    heard = set()
    monkeypatch.setattr(Watch, "on_step_end", lambda watch, *_: heard.add(id(watch)))
    run(model, None, *PARTS["placement"], "callbacks=[example_callback:Watch]")
    assert heard


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (
            "pool.options.foldr=/tmp",
            "pool.options of 'example_pool:FilePool': unknown key 'foldr'; did you mean 'folder'?",
        ),
        ("placement.options.keep=0", "keep is 0; the newest block always stays"),
        ("placement.options.keep=many", "placement.options of 'example_placement:KeepTail'"),
        ("transport.options.port=1", "unknown key 'port'; allowed at the top: around, folder"),
        ("attention.options.local_options.precision=half", "precision='half'"),
        ("placement.name=example_placement:Nothing", "has no class 'Nothing'"),
        ("pool.name=example_missing:FilePool", "'example_missing', which is not installed"),
    ],
)
def test_a_wrong_option_of_an_own_part_is_refused_by_name(key, sentence):
    try:
        config = load(RECIPE, [key])
        problems = check_parts(config)
        attention_parts(config)
    except ConfigError as error:
        problems = error.problems
    assert len(problems) == 1
    assert re.search(re.escape(sentence), problems[0]), problems[0]
