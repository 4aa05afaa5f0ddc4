"""Clients that stream answers over HTTP, come back after a broken connection, and note all times.

Plain ``http.client``: what a client sees of a connection that breaks is part of the result.
"""

import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.chaos.oracle import Context

SILENT_S = 90.0
"""a stream without a word for so long has failed"""
RETRY_S = 0.25
PATIENCE_S = 120.0
"""how long one request may be tried again, all its broken connections together"""


@dataclass(slots=True)
class Answer:
    """One request, as its client saw it."""

    client: str
    instance: int | None
    """whose gateway it went to; None: the cluster's"""
    began: float
    """CLOCK_MONOTONIC, like the other times"""
    request_id: str = ""
    """its last one: a request that broke before its first word is sent anew"""
    told: dict[int, str] = field(default_factory=dict)
    """text by event number"""
    told_ids: dict[int, list[int]] = field(default_factory=dict)
    """token ids by event number, where the oracle wants them"""
    times: list[float] = field(default_factory=list)
    """of the events with text"""
    num_wrong: int = 0
    num_broken: int = 0
    num_refused: int = 0
    """503: no instance was ready; asked again"""
    failed: str = ""
    finished: bool = False
    prompt_ids: tuple[int, ...] = ()


class _Broken(Exception):
    """The connection ended before the answer did."""


class Client(threading.Thread):
    """Sends one request after the other until it is told to stop; finishes the last."""

    def __init__(
        self,
        name: str,
        *,
        port: int,
        instance: int | None,
        model: str,
        contexts: Sequence[Context],
        max_tokens: int,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._port, self._instance, self._model = port, instance, model
        self._contexts, self._max_tokens = contexts, max_tokens
        self._stopped = threading.Event()
        self.answers: list[Answer] = []

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        number = 0
        while not self._stopped.is_set():
            context = self._contexts[number % len(self._contexts)]
            answer = Answer(self.name, self._instance, time.monotonic())
            answer.prompt_ids = tuple(context.prompt_ids)
            self.answers.append(answer)
            self._ask(context, answer)
            if answer.finished and context.pieces is not None:
                answer.num_wrong = context.num_wrong(answer.told)
            number += 1

    def _ask(self, context: Context, answer: Answer) -> None:
        """Until the answer is whole or has failed for good."""
        name, last = "", ""
        while not (answer.finished or answer.failed):
            if time.monotonic() > answer.began + PATIENCE_S:
                answer.failed = f"not finished after {PATIENCE_S:g} s"
                return
            try:
                for event_id, body in self._stream(context, answer, name, last):
                    if event_id:
                        name, last = event_id.rpartition(":")[0], event_id
                        answer.request_id = name
                    self._take(answer, event_id, body)
            except TimeoutError:
                answer.failed = f"not a word for {SILENT_S:g} s"
            except (_Broken, OSError, http.client.HTTPException):
                answer.num_broken += 1
                time.sleep(RETRY_S)

    def _stream(
        self, context: Context, answer: Answer, name: str, last: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """(event id, body) until [DONE]; raises _Broken when it ends before."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SILENT_S)
        try:
            if name:
                connection.request("GET", f"/v1/streams/{name}", headers={"Last-Event-ID": last})
            else:
                body = {
                    "model": self._model,
                    "prompt": context.prompt_ids,
                    "max_tokens": self._max_tokens,
                    "temperature": 0,
                    "ignore_eos": True,
                    "stream": True,
                    "return_token_ids": context.pieces is None,
                }
                head = {"Content-Type": "application/json"}
                connection.request("POST", "/v1/completions", json.dumps(body), head)
            reply = connection.getresponse()
            if reply.status == 503:
                answer.num_refused += 1
                time.sleep(RETRY_S)
                return
            if reply.status != 200:
                text = reply.read(1000).decode(errors="replace")
                answer.failed = f"HTTP {reply.status}: {text}"
                return
            event_id = ""
            while line := reply.readline():
                if line.startswith(b"id: "):
                    event_id = line[4:].strip().decode()
                elif line.startswith(b"data: [DONE]"):
                    answer.finished = not answer.failed
                    return
                elif line.startswith(b"data: "):
                    yield event_id, json.loads(line[6:])
            raise _Broken
        finally:
            connection.close()

    def _take(self, answer: Answer, event_id: str, body: dict[str, Any]) -> None:
        if "error" in body:
            answer.failed = str(body["error"].get("message"))
        number = int(event_id.rpartition(":")[2] or 0)
        # An event that comes twice is wrong even if what it says is right.
        for choice in body.get("choices", []):
            answer.told_ids.setdefault(number, []).extend(choice.get("token_ids") or [])
        text = "".join(choice.get("text") or "" for choice in body.get("choices", []))
        if not text:
            return
        answer.told[number] = answer.told.get(number, "") + text
        answer.times.append(time.monotonic())
