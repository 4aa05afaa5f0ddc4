"""The configuration tree: what wins, and that every mistake is told, with what is allowed."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import attention, comm, memory, scheduler
from engine.build import check_parts
from engine.config import Config, load, to_yaml
from engine.errors import ConfigError
from engine.registry import Registry
from engine.sim.planning.config import PlanConfig
from engine.sim.recipes import load_as

KEYS = {
    "instances": st.integers(1, 64),
    "threads": st.integers(1, 64),
    "model.dtype": st.sampled_from(["bfloat16", "float32", "float16"]),
    "pool.num_blocks": st.integers(2, 10**6),
    "pool.block_tokens": st.integers(1, 256),
    "pool.lending.keep_blocks": st.integers(0, 10**6),
    "pool.lending.lend_fraction": st.floats(0, 1),
    "attention.name": st.sampled_from(["dist", "my.module:Class"]),
    "attention.options.way": st.sampled_from(["query", "copy"]),
    "generate.seed": st.integers(0, 2**31),
    "generate.chat": st.booleans(),
    "generate.temperature": st.floats(0, 10),
}


def problems_of(recipe, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(recipe, overrides)
    return caught.value.problems


@given(values=st.fixed_dictionaries({}, optional=KEYS))
def test_a_printed_tree_loads_back_to_an_equal_one(values, tmp_path_factory):
    values["scheduler.max_step_tokens"] = 1  # passes through any pool but the smallest
    values["pool.num_blocks"] = max(values.get("pool.num_blocks", 4), 4)
    config = load(None, [f"{key}={value}" for key, value in values.items()])
    path = tmp_path_factory.getbasetemp() / "printed.yaml"
    path.write_text(to_yaml(config))
    assert load(str(path)) == config


def test_a_recipe_wins_over_defaults_and_an_override_over_both(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("threads: 2\npool: {num_blocks: 7}\n")
    config = load(str(path), ["pool.num_blocks=9", "pool.num_blocks=10"])
    assert (config.threads, config.pool.num_blocks) == (2, 10)
    assert config.pool.block_tokens == Config().pool.block_tokens


def test_all_mistakes_are_told_at_once_with_what_is_allowed(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("thread: 2\nmodel: {dtype: int8}\npool: {lending: {keep: 1}}\n")
    problems = problems_of(str(path), "generate.seed=x", "pool.num_blocks.x=1", "novalue")
    assert len(problems) == 6, problems
    text = "\n".join(problems)
    for part in ("did you mean 'threads'", "int8", "keep_blocks", "generate.seed", "not key=value"):
        assert part in text


def test_impossible_values_are_told_together():
    problems = problems_of(None, "instances=0", "pool.block_tokens=999", "generate.max_tokens=0")
    assert len(problems) == 3
    assert any("1 to 256 is allowed" in line for line in problems)


def test_a_share_above_one_is_refused():
    (problem,) = problems_of(None, "pool.lending.lend_fraction=2")
    assert "lend_fraction" in problem


@pytest.mark.parametrize(
    ("text", "said"), [("a: [", "is not YAML"), ("- 1\n", "'key: value'"), ("\0", "not YAML")]
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, said):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert said in problems_of(str(path))[0]


def test_a_folder_or_nothing_is_no_recipe(tmp_path):
    (tmp_path / "near.yaml").touch()
    assert "cannot be read" in problems_of(str(tmp_path))[0]
    assert "near.yaml" in problems_of(str(tmp_path / "far.yaml"))[0]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("pool=3", "a section (block_tokens, "),
        ("pool=", "a section (block_tokens, "),
        ("transport.options=[3]", "a section (key: value) is wanted"),
        ("model.path=[a]", "one value is wanted"),
        ("callbacks=a", "a list, such as [a, b], is wanted"),
        ("callbacks=[[a]]", "a list of single values is wanted"),
        ("pool.sizes=[{a: 1}]", "a list of single values is wanted"),
        ("instances=", "a value is wanted"),
        ("threads=1,2", "threads='1,2': a whole number is wanted"),
        ("cluster.heartbeat_s=soon", "a number is wanted"),
        ("generate.chat=maybe", "true or false is wanted"),
        ("num_blocks=3", "did you mean 'pool.num_blocks'?"),
        ("max_tokens=3", "did you mean 'chaos.max_tokens' or 'generate.max_tokens'?"),
    ],
)
def test_a_value_of_the_wrong_kind_or_in_the_wrong_section_is_told(override, said):
    (problem,) = problems_of(None, override)
    assert said in problem


def test_nothing_behind_the_equals_sign_is_an_empty_text():
    assert load(None, ["generate.prompt_file="]).generate.prompt_file == ""


def test_a_list_may_hold_lists_where_anything_goes():
    assert load_as(PlanConfig, None, ["sweep.values=[[1, 2], [3]]"]).sweep.values == [[1, 2], [3]]


def test_a_name_that_is_empty_is_no_recipe():
    assert "cannot be read" in problems_of("")[0]


def test_a_part_of_which_there_are_none_is_told_by_what_it_may_be():
    with pytest.raises(ConfigError, match="known: .package.module:Class. of your own"):
        Registry("callback", {}).load("a")


def test_wrong_parts_are_told_together_with_the_known_ones():
    problems = check_parts(
        load(None, ["pool.name=a", "pool.kernel=b", "placement.options.c=1", "transport.name=x:y"])
    )
    assert len(problems) == 4, problems
    assert "known: device, paged, reference, tiered" in problems[0]
    assert "min_swap_blocks" in "\n".join(problems)


def test_a_part_may_be_a_class_of_ones_own():
    name = "engine.scheduler.local_only:LocalOnly"
    assert check_parts(load(None, [f"placement.name={name}"])) == []


def configs():
    yield Config
    for registry in (
        attention.BACKENDS,
        comm.TRANSPORTS,
        memory.POOLS,
        scheduler.PLACEMENTS,
    ):
        for name in registry.names():
            yield registry.load(name).Config
    for field in dataclasses.fields(Config):
        if dataclasses.is_dataclass(value := getattr(Config(), field.name)):
            yield type(value)


@pytest.mark.parametrize("cls", list(dict.fromkeys(configs())), ids=lambda cls: cls.__qualname__)
def test_every_public_attribute_of_a_config_is_a_field(cls):
    fields = {field.name for field in dataclasses.fields(cls)}
    assert {name for name in vars(cls) if not name.startswith("_")} <= fields


def test_a_chunk_that_would_fill_the_pool_on_its_way_out_is_refused_with_numbers():
    (problem,) = problems_of(
        None, "instances=2", "pool.num_blocks=24", "pool.block_tokens=8", "generate.seed=1"
    )
    assert "scheduler.max_step_tokens=256 lets 33 blocks of 8 tokens" in problem
    assert "lower it to 88" in problem
    assert load(None, ["instances=1", "pool.num_blocks=24", "pool.block_tokens=8"])
