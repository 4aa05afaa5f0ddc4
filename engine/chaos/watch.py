"""A callback of every step process: notes what its loop did, one JSON line each."""

import json
import os
import time

from engine.callbacks import Callback
from engine.core import Plan
from engine.protocol import Report

FOLDER = "LENDKV_CHAOS_FOLDER"
"""where the notes go; times in them are CLOCK_MONOTONIC, the same for all processes of a host"""


class Watch(Callback):
    def __init__(self) -> None:
        self._instance = int(os.environ.get("RANK", "-1"))
        path = os.path.join(os.environ[FOLDER], f"step-{self._instance}-{os.getpid()}.jsonl")
        self._file = open(path, "a", buffering=1)  # noqa: SIM115

    def on_step_end(self, plan: Plan, seconds: float, poisoned: frozenset[int]) -> None:
        fills = any(span.num_rows > 1 for span in plan.spans)
        self._note("step", seconds=seconds, fills=fills, poisoned=len(poisoned))

    def on_borrow(self, instance: int, num_blocks: int) -> None:
        self._note("borrow", creditor=instance, num_blocks=num_blocks)

    def on_peer_lost(self, instance: int, reason: str) -> None:
        self._note("lost", creditor=instance, reason=reason)

    def on_request_finished(self, report: Report) -> None:
        request_id = report.request_id.partition("#")[0]
        self._note("done", request_id=request_id, recomputed_tokens=report.recomputed_tokens)

    def _note(self, what: str, **facts: object) -> None:
        line = {"at": time.monotonic(), "what": what, "instance": self._instance, **facts}
        self._file.write(json.dumps(line) + "\n")
