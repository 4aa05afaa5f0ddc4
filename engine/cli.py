"""The command line: ``lendkv VERB RECIPE [key=value ...]``, the same as ``python -m engine``."""

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from engine import __version__
from engine.chaos.drill import chaos
from engine.children import USER_ERROR
from engine.closing import ONE_S
from engine.config import Config, load, to_yaml
from engine.doctor import doctor
from engine.errors import ConfigError, LendKVError
from engine.evacuate import evacuate
from engine.explain import explain
from engine.generate import Generate, read_prompt
from engine.launch import launch, require_parts
from engine.lending import lending
from engine.load.bench import add_bench, bench
from engine.measure.command import Profiling, is_model, profiled
from engine.model.checkpoint import describe
from engine.output import INTERRUPTED, UNREAD, guarded
from engine.parent import die_with_parent
from engine.recipe import as_yaml
from engine.serve import gateways
from engine.sim.config import SimConfig
from engine.sim.planning.config import PlanConfig
from engine.sim.planning.plan import plan
from engine.sim.recipes import load_as, mode_of
from engine.sim.serving.config import ServingConfig
from engine.sim.simulate import simulate
from engine.supervisor import Frontend
from engine.world import AT_ONCE, STATUS_FILE, STOP_FILE, torchrun

VERBS = {
    "generate": "Answer one prompt and show where its context lay",
    "serve": "Serve the OpenAI API over HTTP until it is stopped",
    "evacuate": "Let an instance of a running cluster leave: lendkv evacuate 2 cluster.join=...",
    "explain": "Tell the life of a request: lendkv explain cmpl-... serve.port=8000",
    "lending": "Show what instances lend, or stop one: lendkv lending 2 off cluster.join=...",
    "simulate": "Run the real machines in virtual time: through faults, or for their performance",
    "plan": "Tell how many devices, instances and blocks a model and its contexts want",
    "profile": "Measure this machine with two instances, for plan and simulate",
    "chaos": "Strike the processes of a cluster under load, and compare every token",
    "doctor": "Look at this machine and recipe: what is fine, what is not, what to do",
}
OWN = {
    "evacuate": ("INSTANCE", "its number"),
    "explain": ("REQUEST", "its id, such as cmpl-0123abcd"),
    "lending": ("INSTANCE", "its number, and on or off; none: what all lend is shown"),
}
"""what stands in a recipe's place"""
RECIPE = ("recipe", "a YAML file; defaults where it is left out")
PROCESSES = "Without torchrun it starts as many processes as the recipe has instances. "
NOTE = "key=value overrides a recipe's value, such as transport.name=tcp."


def main(argv: Sequence[str] | None = None) -> int:
    under_torchrun = "WORLD_SIZE" in os.environ
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        args = _parse(sys.argv[1:] if argv is None else argv)
        if args.verb == "bench":
            return bench(args)
        if args.verb in ("simulate", "plan") and args.print_config:
            print(as_yaml(_simulated(args)), end="")
            return 0
        if args.verb == "simulate":
            return simulate(args.recipe, args.overrides, json_only=args.json, trace=args.trace)
        if args.verb == "plan":
            return plan(args.recipe, args.overrides, as_json=args.json, sweep=args.sweep)
        config = _prompted(load(args.recipe, args.overrides), args)
        if args.print_config:
            if is_first:
                print(to_yaml(config), end="")
            return 0
        if args.verb == "doctor":
            return doctor(config)
        if args.verb == "evacuate":
            return evacuate(config, args.instance)
        if args.verb == "explain":
            return explain(config, args.request_id, as_json=args.json)
        if args.verb == "lending":
            return lending(config, args.instance, args.on)
        describe(config.model.path, library=config.model.library)
        if args.verb == "chaos":
            return chaos(config, args.recipe, args.overrides, as_json=args.json)
        if args.verb == "generate":
            read_prompt(config, args.recipe)
        if args.verb == "profile":
            config = profiled(config, args.output)
        require_parts(config, attention=not under_torchrun)
    except LendKVError as error:
        if is_first:
            for line in str(error).splitlines():
                print(f"lendkv: {line}", file=sys.stderr, flush=True)
        return _leave(USER_ERROR, under_torchrun)
    except KeyboardInterrupt:
        return INTERRUPTED
    if config.instances > 1 and not under_torchrun:
        return _torchrun(config, sys.argv[1:] if argv is None else list(argv))
    try:
        with tempfile.TemporaryDirectory(prefix="lendkv-", dir=_home()) as folder:
            if args.verb == "serve":
                mains = partial(gateways, config, folder=Path(folder))
                status = launch(config, mains, serves=True)
            else:
                frontend: Frontend
                if args.verb == "profile":
                    frontend = profiling = Profiling(config, args.output)
                    profiling.pin(int(os.environ.get("RANK", "0")))
                else:
                    frontend = Generate(config, args.recipe, as_json=args.json)
                one = {"frontend": partial(guarded, frontend)}
                status = launch(config, lambda world: {} if world.rank else one)
    except KeyboardInterrupt:  # before the supervisor has its own handler
        status = INTERRUPTED
    return _leave(status, under_torchrun)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="lendkv", description="LLM serving instances that lend each other KV-cache memory."
    )
    parser.add_argument("--version", action="version", version=f"lendkv {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=_Parser)
    for verb, text in VERBS.items():
        note = PROCESSES + NOTE if verb in ("generate", "serve") else NOTE
        one = verbs.add_parser(verb, help=text, description=f"{text}. {note}")
        name, told = OWN.get(verb, RECIPE)
        one.add_argument("recipe", nargs="?", metavar=name, help=told)
        one.add_argument("overrides", nargs="*", metavar="key=value")
        one.add_argument("--print-config", action="store_true", help="show the merged tree")
        if verb == "generate":
            prompt = one.add_mutually_exclusive_group()
            prompt.add_argument("--prompt", metavar="TEXT")
            prompt.add_argument("--prompt-file", metavar="FILE")
        if verb in ("generate", "chaos", "simulate", "explain", "plan"):
            one.add_argument("--json", action="store_true", help="print one JSON object instead")
        if verb == "profile":
            one.add_argument("--output", metavar="FILE.yaml", default="machine.yaml")
        if verb == "plan":
            text = "a table and a picture over the values of sweep.over"
            one.add_argument("--sweep", action="store_true", help=text)
        if verb == "simulate":
            one.add_argument("--trace", action="store_true", help="print every event")
    text = "Measure a running server: see lendkv bench serve --help"
    add_bench(verbs.add_parser("bench", help=text, description=f"{text}."), _Parser)
    # argparse takes positionals in one run only; overrides may stand between options as well.
    args, rest = parser.parse_known_args(argv)
    for text in rest:
        if text.startswith("-"):
            parser.error(f"unknown option {text}")
    if args.verb == "bench":
        if rest:
            parser.error(f"{rest[0]!r} is not known to bench {args.bench}")
        return args
    args.overrides += rest
    if args.verb == "evacuate":
        if not (args.recipe or "").isdecimal():
            parser.error("evacuate needs an instance's number, such as lendkv evacuate 2")
        args.instance, args.recipe = int(args.recipe), None
    if args.verb == "explain":
        if not args.recipe or "=" in args.recipe:
            parser.error("explain needs a request's id, such as lendkv explain cmpl-0123abcd")
        args.request_id, args.recipe = args.recipe, None
    if args.verb == "lending":
        _read_lending(args, parser)
    if args.verb == "profile" and is_model(args.recipe):
        args.recipe = f"model.path={args.recipe}"
    if args.recipe and "=" in args.recipe and not Path(args.recipe).exists():
        args.overrides.insert(0, args.recipe)
        args.recipe = None
    return args


def _simulated(args: argparse.Namespace) -> PlanConfig | ServingConfig | SimConfig:
    """The tree of a recipe for plan or simulate. Raises ConfigError."""
    given = args.recipe, args.overrides
    if args.verb == "plan":
        return load_as(PlanConfig, *given)
    if mode_of(*given) == "performance":
        return load_as(ServingConfig, *given)
    return load_as(SimConfig, *given)


def _prompted(config: Config, args: argparse.Namespace) -> Config:
    """With the command line's prompt in place of the recipe's."""
    text, file = getattr(args, "prompt", None), getattr(args, "prompt_file", None)
    if text is None and file is None:
        return config
    wanted = dataclasses.replace(config.generate, prompt=text or "", prompt_file=file or "")
    return dataclasses.replace(config, generate=wanted)


def _read_lending(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """``lending``, or ``lending 2 off``, and overrides."""
    given = [word for word in (args.recipe, *args.overrides) if word]
    words = [word for word in given if "=" not in word]
    args.recipe, args.overrides = None, [word for word in given if "=" in word]
    args.instance = args.on = None
    if words:
        if len(words) != 2 or not words[0].isdecimal() or words[1] not in ("on", "off"):
            parser.error("lending needs an instance and on or off, such as lendkv lending 2 off")
        args.instance, args.on = int(words[0]), words[1] == "on"


def _home() -> Path | None:
    """Where a rank's folder lies if ``lendkv`` started it, and goes though the rank is killed."""
    path = os.environ.get(STOP_FILE)
    return Path(path).parent if path else None


def _leave(status: int, under_torchrun: bool) -> int:
    """torchrun buries a status other than 0 under a traceback of its own.

    So what a user can mend, which was said in a sentence, ends with 0 there, and so does output
    that its reader does not want; whoever started torchrun through ``lendkv`` gets the true status
    through a file.
    """
    if not under_torchrun:
        return status
    path = os.environ.get(STATUS_FILE)
    if path and os.environ.get("RANK") == "0":
        Path(path).write_text(str(status))
        return 0
    return 0 if status in (USER_ERROR, UNREAD) else status


def _torchrun(config: Config, argv: list[str]) -> int:
    """Run this command under torchrun, one process an instance.

    It gets a session of its own: Ctrl-C comes here, and the ranks are asked to leave by a file.
    """
    with tempfile.TemporaryDirectory(prefix="lendkv-") as folder:
        status_file, stop_file = Path(folder) / "status", Path(folder) / "stop"
        parent = os.getpid()
        command = [*torchrun(config.instances, folder), "engine", *argv]
        caught: list[tuple[int, float]] = []
        child: subprocess.Popen[bytes] | None = None

        def leave(number: int, _frame: object) -> None:
            now = time.monotonic()
            if not caught or now - caught[-1][1] > ONE_S:
                caught.append((number, now))
            stop_file.write_text("" if len(caught) == 1 else AT_ONCE)
            if len(caught) > 2 and child is not None:  # they do not listen
                child.terminate()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, leave)
        child = subprocess.Popen(
            command,
            # torchrun would set the first one to the same, and warn of it in a frame of stars
            env={"OMP_NUM_THREADS": "1"}
            | os.environ
            | {STATUS_FILE: str(status_file), STOP_FILE: str(stop_file)},
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(parent),
        )
        status = child.wait()
        if caught:
            return 0 if caught[0][0] == signal.SIGTERM else 128 + caught[0][0]
        return int(status_file.read_text()) if status_file.exists() else status
