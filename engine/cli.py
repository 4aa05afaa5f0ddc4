"""The command line: ``lendkv VERB RECIPE [key=value ...]``, the same as ``python -m engine``.

Each verb imports what it needs when it is asked for: ``--help`` and mistakes need none of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from engine import agent, ctrl_c
from engine.children import USER_ERROR
from engine.command_line import parse
from engine.errors import LendKVError
from engine.folder import Folder
from engine.output import guarded

if TYPE_CHECKING:
    from engine.config import Config
    from engine.sim.config import SimConfig
    from engine.sim.planning.config import PlanConfig
    from engine.sim.serving.config import ServingConfig
    from engine.supervisor import Frontend


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status. A user's mistakes are a sentence each, told by rank 0."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(parse(words), words)
    except LendKVError as error:
        if os.environ.get("RANK", "0") == "0":
            for line in str(error).splitlines():
                print(f"lendkv: {line}", file=sys.stderr, flush=True)
        return agent.leave(USER_ERROR)
    except KeyboardInterrupt:
        return agent.leave(ctrl_c.INTERRUPTED)


def _run(args: argparse.Namespace, words: list[str]) -> int:
    if args.verb == "bench":
        from engine.load.bench import bench

        ctrl_c.is_raised()
        return bench(args)
    if args.verb in ("simulate", "plan"):
        return _simulate(args)
    from engine.config import load, to_yaml

    config = _prompted(load(args.recipe, args.overrides), args)
    if args.print_config:
        if os.environ.get("RANK", "0") == "0":
            print(to_yaml(config), end="")
        return 0
    if args.verb in ("generate", "serve", "profile"):
        return _start(config, args, words)
    return _look(config, args)


def _simulate(args: argparse.Namespace) -> int:
    """The verbs that run in virtual time."""
    if args.print_config:
        from engine.recipe import as_yaml

        print(as_yaml(_simulated(args)), end="")
        return 0
    given = args.recipe, args.overrides
    if args.verb == "plan":
        from engine.sim.planning.plan import plan

        return plan(*given, as_json=args.json, sweep=args.sweep)
    from engine.sim.simulate import simulate

    ctrl_c.is_raised()
    return simulate(*given, json_only=args.json, trace=args.trace)


def _simulated(args: argparse.Namespace) -> PlanConfig | ServingConfig | SimConfig:
    """The tree of a recipe for plan or simulate. Raises ConfigError."""
    from engine.sim.config import SimConfig
    from engine.sim.planning.config import PlanConfig
    from engine.sim.recipes import load_as, mode_of
    from engine.sim.serving.config import ServingConfig

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


def _look(config: Config, args: argparse.Namespace) -> int:
    """The verbs that start no instances, or, for chaos, not in this process."""
    if args.verb == "doctor":
        from engine.doctor import doctor

        ctrl_c.is_raised()
        return doctor(config)
    if args.verb == "evacuate":
        from engine.evacuate import evacuate

        return evacuate(config, args.instance)
    if args.verb == "explain":
        from engine.explain import explain

        return explain(config, args.request_id, as_json=args.json)
    if args.verb == "lending":
        from engine.lending import lending

        return lending(config, args.instance, args.on)
    from engine.chaos.drill import chaos
    from engine.model.checkpoint import describe

    describe(config.model.path, library=config.model.library)
    ctrl_c.is_raised()
    return chaos(config, args.recipe, args.overrides, as_json=args.json)


def _start(config: Config, args: argparse.Namespace, words: list[str]) -> int:
    """The verbs that start instances: this rank's, or all of them under torchrun."""
    from engine.launch import launch, require_parts
    from engine.model.checkpoint import describe

    under_torchrun = "WORLD_SIZE" in os.environ
    describe(config.model.path, library=config.model.library)
    if args.verb == "generate":
        from engine.generate import Generate, read_prompt

        read_prompt(config, args.recipe)
        frontend: Frontend = Generate(config, args.recipe, as_json=args.json)
    if args.verb == "profile":
        from engine.measure.command import Profiling, profiled

        config = profiled(config, args.output)
        frontend = profiling = Profiling(config, args.output)
    require_parts(config, attention=not under_torchrun)
    ctrl_c.is_raised()
    if config.instances > 1 and not under_torchrun:
        return agent.run(config.instances, words)
    if args.verb == "serve":
        from engine.serve import gateways

        with Folder(agent.home()) as folder:
            return agent.leave(
                launch(config, partial(gateways, config, folder=folder), serves=True)
            )
    if args.verb == "profile":
        profiling.pin(int(os.environ.get("RANK", "0")))
    one = {"frontend": partial(guarded, frontend)}
    return agent.leave(launch(config, lambda world: {} if world.rank else one))
