"""The verb ``explain``: the life of one request of a running server, in words and numbers."""

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from engine.config import Config
from engine.errors import ConfigError, LendKVError
from engine.server.api_keys import KEY_VARIABLE

Json = dict[str, Any]

TIMEOUT_S = 10.0

WORDS = {
    "queued": "joined the queue, behind {amount} others",
    "waits": "found no memory: {each} blocks were missing, tried {times} times",
    "borrowed": "borrowed {amount} blocks of instance {instance}",
    "host": "took {amount} blocks of host memory",
    "started": "began to run, with {amount} blocks of its own",
    "found": "found the keys of {amount} tokens cached",
    "computed": "computed {amount} tokens of the prompt in {times} steps",
    "recomputed": "computed {amount} lost tokens again in {times} steps",
    "first_token": "gave its first token",
    "moved": "moved {amount} blocks to instance {instance}",
    "recalled": "instance {instance} called {amount} blocks back",
    "returned": "brought {amount} blocks home from instance {instance}",
    "busy": "instance {instance} was busy: paused {times} times for {amount} ms",
    "lost:preemption": "was preempted: {amount} tokens to be computed again",
    "lost:lost_holder": "lost a holder: {amount} tokens to be computed again",
    "lost:recall": "gave blocks up to a recall: {amount} tokens to be computed again",
    "handed_over": "was handed over",
    "ended": "ended",
}
WHY = {
    "first": "",
    "hand_over": ", handed over by the one before",
    "step_lost": ", since the one before was lost",
}


def explain(config: Config, request_id: str, *, as_json: bool) -> int:
    """Print it; raises ConfigError when there is no such server or request."""
    found = _ask(config, request_id)
    try:
        lines = [*words(found)]
    except (KeyError, TypeError) as error:
        raise LendKVError(f"what answers at {_where(config)} is no LendKV server") from error
    for line in [json.dumps(found)] if as_json else lines:
        print(line)
    return 0


def words(found: Json) -> Iterator[str]:
    """An explanation as lines of text."""
    how = found["state"]
    if found["error"]:
        how = f"failed: {found['error']}"
    elif found["finish_reason"]:
        how = f"ended by {found['finish_reason']}"
    yield f"{found['id']}: {how}, after {_seconds(found['age_s'])}"
    yield (
        f"  {found['prompt_tokens']} prompt tokens, {found['output_tokens']} of at most "
        f"{found['max_tokens']} answer tokens"
    )
    if found["ttft_s"] is not None:
        speed = f"  first token after {_seconds(found['ttft_s'])}"
        if found["tpot_s"] is not None:
            speed += f", then one every {_seconds(found['tpot_s'])}"
        yield speed
    for attempt in found["attempts"]:
        yield from _attempt_words(attempt)
    if not found["attempts"]:
        yield "  no instance has taken it yet"
    if found["blocks"]:
        held = ", ".join(f"{number} by {one}" for one, number in found["blocks"].items())
        yield f"  its blocks were held by instance: {held}"
    if found["recomputed_tokens"]:
        yield f"  {found['recomputed_tokens']} tokens were computed again"


def _attempt_words(attempt: Json) -> Iterator[str]:
    yield (
        f"  attempt {attempt['number']}, at instance {attempt['instance']}{WHY[attempt['why']]}, "
        f"from {_seconds(attempt['began_s'])} on, behind {attempt['tokens_before']} tokens"
    )
    if not attempt["is_known"]:
        yield "    its step has not told of it"
    for moment in attempt["moments"]:
        each = moment["amount"] // moment["times"]
        text = WORDS.get(moment["what"], "{what}").format(**moment, each=each)
        at = _seconds(moment["at_s"])
        if moment["until_s"] > moment["at_s"]:
            text += f", until {_seconds(moment['until_s'])}"
        yield f"    {at:>10}  {text}"
    if attempt["moments_left_out"]:
        yield f"    {attempt['moments_left_out']} moments in between are not kept"
    for instance, seconds in attempt["asked_s"].items():
        yield (
            f"    asked instance {instance} for partials, {_seconds(seconds)} in all from question "
            "to answer, own work meanwhile"
        )


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def _where(config: Config) -> str:
    host = config.serve.host
    return f"http://{f'[{host}]' if ':' in host else host}:{config.serve.port}"


def _ask(config: Config, request_id: str) -> Json:
    wanted, where = config.serve, _where(config)
    url = f"{where}/cluster/requests/{urllib.parse.quote(request_id, errors='replace')}"
    key = next(iter([*wanted.api_keys, os.environ.get(KEY_VARIABLE, "")]), "")
    headers = {"Authorization": f"Bearer {key.split()[0]}"} if key.split() else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S
        ) as answer:
            found: Json = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        with error:
            raise ConfigError(_refusal(error, where)) from error
    except http.client.HTTPException as error:
        raise ConfigError(f"what answers at {where} does not speak HTTP, or broke off") from error
    except OSError as error:
        raise ConfigError(
            f"no server answers at {where} ({getattr(error, 'reason', error)}); give its "
            "serve.port, and serve.host if it is not 127.0.0.1"
        ) from error
    except ValueError as error:
        raise LendKVError(f"what answers at {where} is no LendKV server: {error}") from error


def _refusal(error: urllib.error.HTTPError, where: str) -> str:
    try:
        text = json.load(error)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"{where} answers {error.code}: it is no LendKV server, or an older one"
    if error.code == 401:
        text += f" Give it as {KEY_VARIABLE}."
    return f"{where}: {text}"
