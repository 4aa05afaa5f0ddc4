"""Client: talks to a cluster's planner and steps over control sockets. Knows no tensors."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.comm.control import ControlClient
from engine.core import Request, SamplingParams
from engine.errors import CapacityError, LendKVError
from engine.protocol import (
    FROM_PLANNER,
    FROM_STEP,
    Failed,
    Goodbye,
    HandedOver,
    Member,
    Members,
    MembersQuery,
    Message,
    Progress,
    Report,
    Submit,
    Tokens,
)


@dataclass(slots=True)
class Answer:
    """A finished request as its client saw it."""

    report: Report
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str = ""
    ttft_s: float = 0.0
    total_s: float = 0.0
    members: list[Member] = field(default_factory=list)
    """the cluster's pools when the last token but a few was there"""

    @property
    def tpot_ms(self) -> float:
        """Mean time of a token after the first, in milliseconds."""
        return 1000 * (self.total_s - self.ttft_s) / max(len(self.token_ids) - 1, 1)


class Client:
    """One at a time: ``wait_ready``, ``complete``, ``goodbye``."""

    def __init__(self, planner: str, key: bytes) -> None:
        self._key = key
        self._planner = ControlClient(planner, FROM_PLANNER, key)
        self._steps: dict[str, ControlClient] = {}
        self._members: list[Member] = []

    def members(self, timeout_s: float = 1.0) -> list[Member]:
        """The cluster as the planner sees it; the last known state if it does not answer."""
        self._planner.send(MembersQuery())
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            for message in self._planner.receive(left):
                if isinstance(message, Members):
                    self._members = message.members
                    return self._members
        return self._members

    def wait_ready(
        self, num_instances: int, timeout_s: float, on_ready: Callable[[int], None]
    ) -> None:
        """Until so many instances serve; LendKVError tells how many do when the time is up."""
        deadline = time.monotonic() + timeout_s
        ready = 0
        while ready < num_instances:
            if time.monotonic() > deadline:
                raise LendKVError(
                    f"{ready} of {num_instances} instances are ready after {timeout_s:g} s; "
                    "look for errors above, or raise cluster.start_s"
                )
            ready = sum(1 for member in self.members() if member.step_address)
            on_ready(ready)
            time.sleep(0.05)

    def complete(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        instance: int = 0,
        on_token: Callable[[int], None] = lambda _: None,
        on_prefill: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Answer:
        """Run one request at an instance; CapacityError when it is refused.

        If the instance's step is restarted meanwhile the request is sent again: tokens that came
        already are not given to ``on_token`` twice.
        """
        began = time.monotonic()
        answer = Answer(Report("", [], 0, 0, 0, 0, {}, 0))
        address = ""
        next_look = 0.0
        attempt = 0
        while True:
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + 0.5
                here = [m for m in self.members() if m.instance == instance and m.step_address]
                if here and here[0].step_address != address:
                    address, attempt = here[0].step_address, attempt + 1
                    request = Request(
                        request_id=f"generate-{attempt}",
                        prompt_ids=tuple(prompt_ids),
                        sampling=sampling,
                    )
                    self._step(address).send(Submit(request))
                if answer.token_ids:
                    answer.members = self._members
            if not address:
                time.sleep(0.05)
                continue
            for message in self._step(address).receive(0.1):
                if isinstance(message, HandedOver):  # it leaves: go on elsewhere, from the start
                    others = [m for m in self.members() if m.instance != instance]
                    instance = next((m.instance for m in others if m.step_address), instance)
                    next_look = 0.0
                if _is_for(message, f"generate-{attempt}"):
                    done = self._take(message, answer, began, on_token, on_prefill)
                    if done:
                        return answer

    def goodbye(self) -> None:
        """Tell all instances to leave."""
        for member in self.members():
            if member.step_address:
                self._step(member.step_address).send(Goodbye())
        for client in (*self._steps.values(), self._planner):
            client.close()

    def _take(
        self,
        message: Message,
        answer: Answer,
        began: float,
        on_token: Callable[[int], None],
        on_prefill: Callable[[int, int], None],
    ) -> bool:
        match message:
            case Progress():
                on_prefill(message.num_done, message.num_total)
            case Tokens():
                fresh = message.token_ids[len(answer.token_ids) - message.index :]
                for token in fresh if message.index <= len(answer.token_ids) else []:
                    if not answer.token_ids:
                        answer.ttft_s = time.monotonic() - began
                        answer.members = self.members()
                    answer.token_ids.append(token)
                    on_token(token)
                answer.finish_reason = message.finish_reason
                answer.total_s = time.monotonic() - began
            case Failed():
                raise CapacityError(message.reason)
            case Report():
                answer.report = message
                return True
        return False

    def _step(self, address: str) -> ControlClient:
        if address not in self._steps:
            self._steps[address] = ControlClient(address, FROM_STEP, self._key)
        return self._steps[address]


def _is_for(message: Message, request_id: str) -> bool:
    return getattr(message, "request_id", "") == request_id
