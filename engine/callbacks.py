"""Callback: hooks into a running step loop, for metrics, tracing and fault injection."""

from engine.core import Plan
from engine.protocol import Report


class Callback:
    """Override what you need; each hook runs on the step's thread, so keep it short."""

    def on_step_start(self, plan: Plan) -> None:
        """Before the model runs."""

    def on_step_end(self, plan: Plan, seconds: float, poisoned: frozenset[int]) -> None:
        """After its tokens were booked; ``poisoned`` sequences run the same rows again."""

    def on_borrow(self, instance: int, num_blocks: int) -> None:
        """A creditor has granted a loan."""

    def on_peer_lost(self, instance: int, reason: str) -> None:
        """An instance's pool cannot be reached any more."""

    def on_request_finished(self, report: Report) -> None:
        """All of a request's tokens were published."""
