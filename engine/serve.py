"""The verb ``serve``: a gateway process behind a socket that its supervisor holds."""

import logging
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from engine.comm.auth import KEY_VARIABLE, read_key
from engine.config import Config
from engine.errors import ConfigError
from engine.model.checkpoint import describe, end_ids, require_tokenizer
from engine.model.generation import GenerationDefaults, generation_defaults
from engine.saying import say
from engine.server.api_keys import ApiKeys
from engine.world import World

BACKLOG = 1024


def listen(host: str, port: int, key: str = "serve.port") -> socket.socket:
    """A listening socket, made before anything starts; ConfigError when it is not to be had.

    ``key``: of the recipe, which says the port.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with ExitStack() as undone:
            listener = undone.enter_context(socket.socket(family))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)
            listener.set_inheritable(True)
            undone.pop_all()
    except (OSError, OverflowError) as error:
        advice = f"choose another {key} or serve.host, or end the server that has it"
        if isinstance(error, PermissionError):
            advice = f"choose a {key} from 1024, or run it with CAP_NET_BIND_SERVICE"
        raise ConfigError(
            f"cannot serve HTTP at {host}:{port} ({getattr(error, 'strerror', None) or error}); "
            + advice
        ) from error
    return listener


@dataclass(frozen=True, slots=True)
class Serve:
    """Runs as a gateway process; restarted it goes on from its journal, with the same socket."""

    config: Config
    listener: socket.socket
    journal: Path
    keys: ApiKeys
    only: int | None = None
    """the one instance it serves; None for the cluster"""

    def __call__(self, pipe: Connection, planner: str, key: bytes) -> int:
        from engine.server.access_log import to_stderr
        from engine.server.app import build_app
        from engine.server.completions import Completions
        from engine.server.drain import Drain
        from engine.server.gateway import Gateway
        from engine.server.http_server import HttpServer
        from engine.server.limits import Limits
        from engine.server.metrics import Metrics
        from engine.server.teller import Teller
        from engine.server.tools.formats import format_of
        from engine.server.tracing import Tracing

        config, wanted = self.config, self.config.serve
        shape = describe(config.model.path, library=config.model.library).shape
        tokenizer = require_tokenizer(config.model.path, library=config.model.library)
        model = wanted.model_name or config.model.path
        defaults = GenerationDefaults()
        if wanted.generation_config == "auto":
            defaults = generation_defaults(config.model.path)
        metrics, tracing = Metrics(model), None
        if wanted.otlp_traces_endpoint:
            tracing = Tracing(wanted.otlp_traces_endpoint, model)
        watchers: list[Metrics | Tracing] = [metrics, *([tracing] if tracing else [])]
        gateway = Gateway(
            planner,
            key=key,
            journal=self.journal,
            block_tokens=config.pool.block_tokens,
            on_end=lambda entry, terms: [one.ended(entry, terms) for one in watchers],
            on_report=lambda entry: [one.reported(entry) for one in watchers],
            only=self.only,
        )
        tool_format = format_of(tokenizer.template, wanted.tool_parser)
        completions = Completions(
            gateway,
            tokenizer,
            model=model,
            max_positions=shape.max_positions,
            vocab_size=shape.vocab_size,
            defaults=defaults,
            limits=Limits(
                max_queued_requests=wanted.max_queued_requests,
                max_queued_tokens=wanted.max_queued_tokens,
            ),
            tool_format=tool_format,
        )
        eos_ids = end_ids(config.model.path)

        def stop() -> None:
            server.stop()

        app = build_app(
            gateway,
            completions,
            Teller(gateway, tokenizer, model=model, eos_ids=eos_ids, tool_format=tool_format),
            metrics,
            model=model,
            max_positions=shape.max_positions,
            max_body_bytes=wanted.max_body_bytes,
            tokenizer=tokenizer,
            idle_s=wanted.idle_s,
            keys=self.keys,
            write_log=to_stderr if wanted.access_log else None,
            log_as_json=wanted.log_format == "json",
            drain=Drain(gateway, pipe, stop, of_all=self.only is None),
            tracing=tracing,
        )
        host, port = self.listener.getsockname()[:2]
        who = "lendkv" if self.only is None else f"lendkv: instance {self.only}"
        say(f"{who}: serving {model} at http://{host}:{port}/v1", sys.stdout)
        if self.only is None:
            say(f"lendkv: {how_to_join(config, planner)}", sys.stdout)
        # It warns of each client that left in the middle of a burst of tokens.
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        server = HttpServer(app, idle_s=wanted.idle_s)
        server.run(sockets=[self.listener])
        return 0


def how_to_join(config: Config, planner: str) -> str:
    """What more instances need to be told."""
    where = f"cluster.join={planner.removeprefix('tcp://')}"
    if read_key(config.cluster.key_file):
        return f"instances join and leave with {where}"
    return f"for {where} to be of use, start with cluster.key_file or {KEY_VARIABLE}"


def gateways(config: Config, world: World, folder: Path) -> dict[str, Serve]:
    """A rank's gateways: the cluster's on rank 0, and one of its own where they are wanted."""
    wanted, found = config.serve, {}
    keys = ApiKeys.read(wanted.api_keys, wanted.api_key_file)
    if world.rank == 0 and not config.cluster.join:
        listener = listen(wanted.host, wanted.port)
        found["gateway"] = Serve(config, listener, folder / "gateway.journal", keys)
    if wanted.instance_port:
        listener = listen(wanted.host, wanted.instance_port + world.rank, "serve.instance_port")
        journal = folder / "instance.journal"
        found["instance gateway"] = Serve(config, listener, journal, keys, only=world.instance)
    return found
