"""What a command line asks for."""

import argparse

import pytest

from engine import command_line as verbs
from engine.cli import main
from engine.command_line import is_model, parse, parser
from engine.errors import ConfigError


@pytest.mark.parametrize(
    ("word", "is_one"),
    [("smollm2", True), ("recipe.yaml", False), ("threads=2", False), (None, False)],
)
def test_what_profile_is_given_first_may_be_a_model(word, is_one):
    assert is_model(word) == is_one


def parsers(one, name="lendkv"):
    """It and those of its verbs, by name."""
    found = {name: one}
    for action in one._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, inner in action.choices.items():
                found |= parsers(inner, f"{name} {verb}")
    return found


PARSERS = parsers(parser())
VERBS = set(verbs.VERBS)


@pytest.mark.parametrize("verb", sorted(VERBS - {"evacuate", "explain", "lending"}))
def test_the_override_that_help_shows_is_one(verb, capsys):
    example = PARSERS[f"lendkv {verb}"].description.split("such as ")[1].removesuffix(".")
    assert main([verb, example, "--print-config"]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        "generate --frob",
        "evacuate x",
        "explain",
        "lending 2",
        "bench serve --frob",
        "bench serve frob",
        "plan --trace",
    ],
)
def test_a_mistake_names_the_help_of_its_verb(words):
    verb = "bench serve" if words.startswith("bench") else words.split()[0]
    with pytest.raises(ConfigError, match=f"; see lendkv {verb} --help$"):
        parse(words.split())


@pytest.mark.parametrize("name", PARSERS)
def test_help_has_a_word_on_everything(name):
    one = PARSERS[name]
    verbs = [action for action in one._actions if isinstance(action, argparse._SubParsersAction)]
    silent = [action.dest for action in one._actions if not action.help and action not in verbs]
    assert not silent
    assert one.description.endswith(".")
    assert one.prog == name
