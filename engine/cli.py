"""The command line: ``lendkv VERB RECIPE [key=value ...]``, the same as ``python -m engine``."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from engine import __version__
from engine.children import USER_ERROR, die_with_parent
from engine.config import Config, load, to_yaml
from engine.errors import ConfigError, LendKVError
from engine.generate import Generate, read_prompt
from engine.launch import launch, require_parts
from engine.model.checkpoint import describe

STATUS_FILE = "LENDKV_STATUS_FILE"
"""where rank 0 leaves its exit status for the ``lendkv`` that started torchrun"""


def main(argv: Sequence[str] | None = None) -> int:
    under_torchrun = "WORLD_SIZE" in os.environ
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        args = _parse(sys.argv[1:] if argv is None else argv)
        config = load(args.recipe, args.overrides)
        if args.print_config:
            if is_first:
                print(to_yaml(config), end="")
            return 0
        describe(config.model.path, library=config.model.library)
        read_prompt(config, args.recipe)
        require_parts(config, attention=not under_torchrun)
    except LendKVError as error:
        if is_first:
            for line in str(error).splitlines():
                print(f"lendkv: {line}", file=sys.stderr, flush=True)
        return _leave(USER_ERROR, under_torchrun)
    if config.instances > 1 and not under_torchrun:
        return _torchrun(config, sys.argv[1:] if argv is None else list(argv))
    try:
        status = launch(config, Generate(config, args.recipe, as_json=args.json))
    except KeyboardInterrupt:  # before the supervisor has its own handler
        status = 130
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
    generate = verbs.add_parser(
        "generate",
        help="answer one prompt and show where its context lay",
        description="Answer one prompt with the instances of a recipe. Without torchrun it starts "
        "as many processes as the recipe has instances.",
        epilog="key=value overrides a recipe's value, such as transport.name=tcp",
    )
    generate.add_argument("recipe", nargs="?", help="a YAML file; defaults where it is left out")
    generate.add_argument("overrides", nargs="*", metavar="key=value")
    generate.add_argument("--prompt", metavar="TEXT")
    generate.add_argument("--prompt-file", metavar="FILE")
    generate.add_argument("--json", action="store_true", help="print one JSON object instead")
    generate.add_argument("--print-config", action="store_true", help="show the merged tree")
    # argparse takes positionals in one run only; overrides may stand between options as well.
    args, rest = parser.parse_known_args(argv)
    for text in rest:
        if text.startswith("-"):
            parser.error(f"unknown option {text}")
    args.overrides += rest
    if args.recipe and "=" in args.recipe and not Path(args.recipe).exists():
        args.overrides.insert(0, args.recipe)
        args.recipe = None
    for key in ("prompt", "prompt_file"):
        if getattr(args, key) is not None:
            args.overrides.append(f"generate.{key}={json.dumps(getattr(args, key))}")
    return args


def _leave(status: int, under_torchrun: bool) -> int:
    """torchrun buries a status other than 0 under a traceback of its own.

    So what a user can mend, which was said in a sentence, ends with 0 there; whoever started
    torchrun through ``lendkv`` gets the true status through a file.
    """
    if not under_torchrun:
        return status
    path = os.environ.get(STATUS_FILE)
    if path and os.environ.get("RANK") == "0":
        Path(path).write_text(str(status))
        return 0
    return 0 if status == USER_ERROR else status


def _torchrun(config: Config, argv: list[str]) -> int:
    """Run this command under torchrun, one process an instance."""
    with tempfile.TemporaryDirectory(prefix="lendkv-") as folder:
        status_file = Path(folder) / "status"
        parent = os.getpid()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(config.instances), "-m", "engine", *argv]
        child = subprocess.Popen(
            command,
            env=os.environ | {STATUS_FILE: str(status_file)},
            preexec_fn=lambda: die_with_parent(parent),
        )
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        try:
            status = child.wait()
        except KeyboardInterrupt:
            status = child.wait() or 130
        return int(status_file.read_text()) if status_file.exists() else status
