"""Single values: what is written is what is read, and what cannot be is refused with what can."""

import dataclasses
import math

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from engine.bounds import BOUNDS
from engine.config import Config, load
from engine.errors import ConfigError
from engine.sim.config import SimConfig
from engine.sim.planning.config import PlanConfig
from engine.sim.recipes import load_as, mode_of
from engine.sim.serving.config import ServingConfig

MAY_BE_NEGATIVE = {"generate.top_k", "generate.seed", "chaos.seed"}


def numbers(value, name=""):
    """Dotted names of all numbers in a tree of dataclasses."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from numbers(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name


def refusal(*overrides, recipe=None):
    with pytest.raises(ConfigError) as caught:
        load(recipe, overrides)
    return str(caught.value)


def written(text):
    return yaml.dump(text, default_style='"', width=math.inf).strip()


@example(text="${generate.seed}")
@example(text="\\\\${")
@given(text=st.text().filter(lambda text: text != "???"))
def test_any_text_is_read_as_it_is_written(text):
    wanted = load(None, [f"generate.prompt={written(text)}", f"serve.api_keys=[{written(text)}]"])
    assert wanted.generate.prompt == text
    assert wanted.serve.api_keys == [text]


@pytest.mark.parametrize("name", list(numbers(Config())))
def test_no_number_is_minus_one_or_a_text_that_names_another(name):
    if name not in MAY_BE_NEGATIVE:
        assert name.rpartition(".")[2] in refusal(f"{name}=-1")
    assert name in refusal(f"{name}=${{threads}}")


@pytest.mark.parametrize(
    "name", [name for name in numbers(Config()) if name.endswith(("_s", "temperature", "top_p"))]
)
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "1e999"])
def test_seconds_are_finite(name, value):
    assert name.rpartition(".")[2] in refusal(f"{name}={value}")


@pytest.mark.parametrize("name", BOUNDS)
def test_what_is_beyond_a_bound_is_refused_with_both(name):
    low, high = BOUNDS[name]
    for value in (low - 1, 2 * high + 1):
        said = refusal(f"{name}={value}")
        assert said.startswith(f"{name} is {value}")
        assert said.endswith(f"; {low:,.15g} to {high:,.15g} is allowed")


@pytest.mark.parametrize("kind", [SimConfig, ServingConfig, PlanConfig])
def test_recipes_of_the_simulator_are_checked_alike(kind, tmp_path):
    path = tmp_path / "recipe.yaml"
    for text, said in (
        ("sedes: 1\nworkloud: 2\n", "unknown key"),
        ("a: [", "is not YAML: expected the node"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            load_as(kind, str(path), [])
    for mode in (lambda text: load_as(kind, None, [text]), lambda text: mode_of(None, [text])):
        with pytest.raises(ConfigError, match="not key=value"):
            mode("seeds")
    (first, *_) = numbers(kind())
    with pytest.raises(ConfigError, match=first):
        load_as(kind, None, [f"{first}=x"])


def test_what_is_wrong_with_a_recipe_is_told_with_its_place(tmp_path):
    path = tmp_path / "recipe.yaml"
    for text, said in (
        ("instances: 2\nthreads: [1\n", "in line 3, column 1"),
        ("instances: 1\ninstances: 2\n", "the key instances is there twice, in line 2"),
        ("a: " + 3000 * "[" + 3000 * "]", "more than 100 deep"),
        ("a: &a {b: *a}", "more than 100 deep"),
        ("a: &a [*a]", "more than 100 deep"),
        ("instances: ???", "a value is missing"),
        ("instances: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ):
        path.write_text(text)
        assert said in refusal(recipe=str(path))


@pytest.mark.parametrize("where", ["foo", "foo:bar", ":4711", "foo:0", "foo:65536"])
def test_an_address_to_join_has_a_host_and_a_port(where):
    assert "HOST:PORT" in refusal(f"cluster.join={where}")


def test_ports_of_all_instances_must_be_there():
    assert "ports up to 65536" in refusal("instances=2", "serve.instance_port=65535")
    own = ("instances=2", "pool.num_blocks=64", "serve.instance_port=7999")
    assert "serve.port=8000 is the cluster's" in refusal(*own)


@pytest.mark.parametrize("name", [":Class", ".module:Class", "no.such:Class"])
def test_a_class_that_cannot_be_imported_is_a_sentence(name):
    from engine.build import check_parts

    (problem,) = check_parts(load(None, [f"placement.name={name}"]))
    assert name in problem
