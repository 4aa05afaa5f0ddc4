"""CommandLine: what ``lendkv VERB RECIPE [key=value ...]`` asks for. Imports nothing heavy."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from engine import __version__
from engine.errors import ConfigError
from engine.load.options import add_options

VERBS = {
    "generate": "Answer one prompt and show where its context lay",
    "serve": "Serve the OpenAI API over HTTP until it is stopped",
    "evacuate": "Let an instance of a cluster leave: lendkv evacuate 2 cluster.join=HOST:PORT",
    "explain": "Tell the life of a request: lendkv explain cmpl-... serve.port=8000",
    "lending": "Show what instances lend, or stop one: lendkv lending 2 off cluster.join=HOST:PORT",
    "simulate": "Run the real machines in virtual time: through faults, or for their performance",
    "plan": "Tell how many devices, instances and blocks a model and its contexts want",
    "profile": "Measure this machine with two instances, for plan and simulate",
    "chaos": "Strike the processes of a cluster under load, and compare every token",
    "doctor": "Look at this machine and recipe: what is fine, what is not, what to do",
}
OWN = {
    "evacuate": ("INSTANCE", "its number"),
    "explain": ("REQUEST", "its id, such as cmpl-0123abcd"),
    "lending": ("INSTANCE on|off", "its number; left out: what all lend is shown"),
    "profile": ("recipe", "a YAML file, or a model; the embedded model where it is left out"),
}
"""what stands in a recipe's place"""
SUFFIXES = (".yaml", ".yml")
RECIPE = ("recipe", "a YAML file; defaults where it is left out")
PROCESSES = "Without torchrun it starts as many processes as the recipe has instances. "
OVERRIDE = "a value of the recipe, to be another one; --print-config shows all"
NOTE = "key=value overrides a recipe's value, such as {}."
SUCH_AS = {
    "evacuate": "cluster.key_file=key",
    "explain": "serve.port=8001",
    "lending": "cluster.key_file=key",
    "simulate": "seeds=20",
    "plan": "devices=32",
}
"""what the verb knows, where its recipe is not of instances"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """Of all verbs."""
    lendkv = _Parser(
        prog="lendkv", description="LLM serving instances that lend each other KV-cache memory."
    )
    version = f"lendkv {__version__}"
    lendkv.add_argument("--version", action="version", version=version, help="show it and exit")
    verbs = lendkv.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    for verb, text in VERBS.items():
        note = NOTE.format(SUCH_AS.get(verb, "transport.name=tcp"))
        note = PROCESSES + note if verb in ("generate", "serve") else note
        one = verbs.add_parser(verb, help=text, description=f"{text}. {note}")
        name, told = OWN.get(verb, RECIPE)
        one.add_argument("recipe", nargs="?", metavar=name, help=told)
        one.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDE)
        one.add_argument("--print-config", action="store_true", help="show the merged tree")
        if verb == "generate":
            prompt = one.add_mutually_exclusive_group()
            text = "the prompt, in place of the recipe's"
            prompt.add_argument("--prompt", metavar="TEXT", help=text)
            prompt.add_argument(
                "--prompt-file", metavar="FILE", help="the same from a file, in UTF-8"
            )
        if verb in ("generate", "chaos", "simulate", "explain", "plan"):
            one.add_argument("--json", action="store_true", help="print one JSON object instead")
        if verb == "profile":
            text, file = "where the profile goes (default: machine.yaml)", "machine.yaml"
            one.add_argument("--output", metavar="FILE.yaml", default=file, help=text)
        if verb == "plan":
            text = "a table and a picture over the values of sweep.over"
            one.add_argument("--sweep", action="store_true", help=text)
        if verb == "simulate":
            one.add_argument("--trace", action="store_true", help="print every event")
    text = "Measure a running server: see lendkv bench serve --help"
    bench = verbs.add_parser("bench", help=text, description=f"{text}.")
    kinds = bench.add_subparsers(dest="bench", metavar="serve", required=True, parser_class=_Parser)
    text = "Load an OpenAI-compatible server; options as of vllm bench serve"
    add_options(kinds.add_parser("serve", help=text, description=f"{text}."))
    return lendkv


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """What was asked; ``recipe`` is a file's name or None. Raises ConfigError."""
    # argparse takes positionals in one run only; overrides may stand between options as well.
    args, rest = parser().parse_known_args(argv)
    for text in rest:
        if text.startswith("-"):
            _refuse(args, f"unknown option {text}")
    if args.verb == "bench":
        if rest:
            _refuse(args, f"{rest[0]!r} is not known to bench {args.bench}")
        return args
    args.overrides += rest
    if args.verb == "evacuate":
        if not (args.recipe or "").isdecimal():
            _refuse(args, "evacuate needs an instance's number, such as lendkv evacuate 2")
        args.instance, args.recipe = int(args.recipe), None
    if args.verb == "explain":
        if not args.recipe or "=" in args.recipe:
            _refuse(args, "explain needs a request's id, such as lendkv explain cmpl-0123abcd")
        args.request_id, args.recipe = args.recipe, None
    if args.verb == "lending":
        _read_lending(args)
    if args.verb == "profile" and is_model(args.recipe):
        args.recipe = f"model.path={args.recipe}"
    if args.recipe and "=" in args.recipe and not Path(args.recipe).exists():
        args.overrides.insert(0, args.recipe)
        args.recipe = None
    return args


def _refuse(args: argparse.Namespace, message: str) -> NoReturn:
    verb = "bench serve" if args.verb == "bench" else args.verb
    raise ConfigError(f"{message}; see lendkv {verb} --help")


def is_model(given: str | None) -> bool:
    """Whether the first word of ``profile`` is a model, not a recipe or an override."""
    return bool(given) and Path(str(given)).suffix not in SUFFIXES and "=" not in str(given)


def _read_lending(args: argparse.Namespace) -> None:
    """``lending``, or ``lending 2 off``, and overrides."""
    given = [word for word in (args.recipe, *args.overrides) if word]
    words = [word for word in given if "=" not in word]
    args.recipe, args.overrides = None, [word for word in given if "=" in word]
    args.instance = args.on = None
    if words:
        if len(words) != 2 or not words[0].isdecimal() or words[1] not in ("on", "off"):
            _refuse(args, "lending needs an instance and on or off, such as lendkv lending 2 off")
        args.instance, args.on = int(words[0]), words[1] == "on"
