"""What a command line asks for."""

import argparse

import pytest

from engine.command_line import is_model, parser


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


@pytest.mark.parametrize("name", PARSERS)
def test_help_has_a_word_on_everything(name):
    one = PARSERS[name]
    verbs = [action for action in one._actions if isinstance(action, argparse._SubParsersAction)]
    silent = [action.dest for action in one._actions if not action.help and action not in verbs]
    assert not silent
    assert one.description.endswith(".")
    assert one.prog == name
