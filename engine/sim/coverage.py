"""Coverage: how often each message met each fate in each state of its receiver."""

from collections.abc import Mapping
from typing import Any

ENOUGH = 50
"""a cell seen so often counts as covered"""
FATES = ("none", "late", "lost")
STEP = ("idle", "prefill", "decode", "wounded", "leaving")
DONOR = ("plain", "recalling")
POOL = (*DONOR, "strained")
TO_STEP = frozenset(
    [
        "Welcome",
        "Drawn",
        "Granted",
        "Refused",
        "Pinned",
        "Renewed",
        "Released",
        "Recall",
        "Ack",
        "Data",
        "Answer",
        "Busy",
        "FencedOff",
        "BorrowOffer",
        "Members",
        "Move",
        "Settle",
        "Evacuate",
        "Resend",
        "Submit",
        "Abort",
    ]
)
TO_POOL = frozenset(
    [
        "Hello",
        "Draw",
        "Give",
        "Strain",
        "Reserve",
        "Pin",
        "Renew",
        "Release",
        "Write",
        "Read",
        "Attach",
        "Detach",
        "Begin",
        "Ask",
        "Freeze",
        "Evacuate",
        "Resend",
    ]
)
TO_UP = frozenset(
    [
        "Heartbeat",
        "Load",
        "BorrowQuery",
        "Register",
        "Join",
        "Joined",
        "MembersQuery",
        "Tokens",
        "Progress",
        "Report",
        "HandedOver",
    ]
)
CANNOT = {
    **dict.fromkeys(("Answer", "Busy"), ("idle", "leaving")),
    "Evacuate": ("strained",),
}
"""A step that waits for an answer runs, and stops running or leaves only after it came. Of pools,
only donors are told to leave; no step strains them."""


def coverage(seen: Mapping[tuple[str, str, str], int]) -> dict[str, Any]:
    """``below``: cells that can occur and were seen too seldom."""
    cells = [(kind, fate, state) for kind in sorted(TO_STEP) for fate in FATES for state in STEP]
    cells += [(kind, fate, state) for kind in sorted(TO_POOL) for fate in FATES for state in POOL]
    cells += [(kind, "none", "up") for kind in sorted(TO_UP)]
    possible = [cell for cell in cells if cell[2] not in CANNOT.get(cell[0], ())]
    counts = {cell: seen.get(cell, 0) for cell in possible}
    below = {cell: num for cell, num in counts.items() if num < ENOUGH}
    return {
        "cells": len(possible),
        "covered": sum(num >= ENOUGH for num in counts.values()),
        "enough": ENOUGH,
        "below": {" ".join(cell): num for cell, num in below.items()},
    }
