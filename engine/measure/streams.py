"""Streams: requests at real instances, over their control sockets, and when their tokens came."""

import random
import select
import time
from collections.abc import Mapping

from engine.comm.control import ControlClient
from engine.core import Request, SamplingParams
from engine.errors import LendKVError
from engine.protocol import Abort, Failed, Report, Submit, Tokens

LIMIT_S, PATIENCE_S = 180.0, 0.02


class Stream:
    """One request and when each of its tokens came."""

    def __init__(self, name: str, instance: int) -> None:
        self.name = name
        self.instance = instance
        self.sent_at = 0.0
        self.times: list[float] = []
        self.report: Report | None = None

    def s_per_token(self, first: int, last: int) -> float:
        return (self.times[last] - self.times[first]) / (last - first)


class Streams:
    """All requests of a run; prompts are random tokens, each name's own."""

    def __init__(self, steps: Mapping[int, ControlClient], vocabulary: int = 40000) -> None:
        self._steps = steps
        self._vocabulary = vocabulary
        self._all: dict[str, Stream] = {}

    def submit(self, instance: int, name: str, prompt_tokens: int, most: int) -> Stream:
        numbers = random.Random(name)
        prompt = [numbers.randrange(self._vocabulary) for _ in range(prompt_tokens)]
        request = Request(
            request_id=name,
            prompt_ids=tuple(prompt),
            sampling=SamplingParams(max_tokens=most, ignore_eos=True),
            stays=True,
        )
        self._all[name] = stream = Stream(name, instance)
        stream.sent_at = time.perf_counter()
        self._steps[instance].send(Submit(request))
        return stream

    def until(self, *streams: Stream, tokens: int, or_end: bool = False) -> None:
        """Listen until each of them has so many tokens; ``or_end``: or has ended with fewer.

        Raises LendKVError.
        """
        deadline = time.monotonic() + LIMIT_S
        while short := [one for one in streams if len(one.times) < tokens]:
            ended = [one for one in short if one.report is not None]
            if or_end and ended == short:
                return
            if ended and not or_end:
                one = ended[0]
                raise LendKVError(f"{one.name} ended with {len(one.times)} of {tokens} tokens")
            if time.monotonic() > deadline:
                raise LendKVError(f"no {tokens} tokens of {short[0].name} in {LIMIT_S:g} s")
            self._listen()

    def end(self, *streams: Stream) -> None:
        """They are not wanted any more."""
        for stream in streams:
            self._steps[stream.instance].send(Abort(stream.name))
            self._all.pop(stream.name, None)

    def reported(self, stream: Stream) -> Report:
        """Wait for the end of the stream."""
        while stream.report is None:
            self._listen()
        return stream.report

    def _listen(self) -> None:
        """Sleeps until somebody speaks: whoever looks all the time takes the instances' cores."""
        where = {stream.instance for stream in self._all.values() if stream.report is None}
        steps = [self._steps[instance] for instance in where]
        if not any(step.pending() for step in steps):
            select.select([step.fileno() for step in steps], [], [], PATIENCE_S)
        for step in steps:
            for message in step.receive(0.0):
                stream = self._all.get(getattr(message, "request_id", ""))
                if stream is None:
                    continue
                match message:
                    case Tokens():
                        stream.times += [time.perf_counter()] * len(message.token_ids)
                    case Failed():
                        raise LendKVError(f"{message.request_id} failed: {message.reason}")
                    case Report():
                        stream.report = message
