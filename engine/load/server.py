"""Which server is asked: whether it answers, which models it has, and what they can hold."""

import asyncio
import json
import os
import time
from typing import Any

import aiohttp

from engine.errors import ConfigError
from engine.load.client import headers, message_of
from engine.load.options import Options

ASK_S = 10.0
AGAIN_S = 0.5


async def find_model(options: Options) -> tuple[str, int]:
    """The model's name and the positions it has, 0 where the server does not say.

    Waits ``ready_check_timeout_sec`` for an answer. Raises ConfigError with what is there instead.
    """
    deadline = time.monotonic() + options.ready_check_timeout_sec
    while True:
        try:
            cards = await _models(options)
            break
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            if time.monotonic() > deadline:
                number = getattr(error, "errno", None) or 0  # below 0: a name that is not found
                why = os.strerror(number) if number > 0 else str(error)
                why = why or f"silent for {ASK_S:g} s"
                raise ConfigError(
                    f"no server answers at {options.url}: {why}; start one (lendkv serve), "
                    "or say where it is with --base-url or --port"
                ) from error
            await asyncio.sleep(AGAIN_S)
    if cards is None:
        if not options.model:
            raise ConfigError(f"{options.url} does not list its models; say --model NAME")
        return options.model, 0
    names = [str(card.get("id")) for card in cards]
    if not names or (options.model and options.model not in names):
        there = ", ".join(names) or "none"
        raise ConfigError(f"--model {options.model!r} is not at {options.url}; there is {there}")
    name = options.model or names[0]
    return name, int(cards[names.index(name)].get("max_model_len") or 0)


async def _models(options: Options) -> list[dict[str, Any]] | None:
    """The cards of /v1/models; None from a server without that route."""
    timeout = aiohttp.ClientTimeout(total=ASK_S)
    url = f"{options.url}/v1/models"
    async with aiohttp.ClientSession(timeout=timeout, headers=headers(options)) as session:
        async with session.get(f"{options.url}/health") as reply:
            if reply.status == 503:  # anything else may be a server without that route
                raise aiohttp.ClientConnectionError("it is not ready yet")
        async with session.get(url) as reply:
            body = await reply.read()
        if reply.status == 404:
            return None
        if reply.status in (401, 403):
            raise ConfigError(
                f"{url} answers {reply.status}: {message_of(body)}; set OPENAI_API_KEY or --header"
            )
        reply.raise_for_status()
        try:
            return list(json.loads(body)["data"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{url} is no list of models: {message_of(body)}") from error
