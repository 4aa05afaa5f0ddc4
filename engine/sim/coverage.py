"""Coverage: how often each message met each fate in each state of its receiver."""

from collections.abc import Mapping
from typing import Any

ENOUGH = 50
"""a cell seen so often counts as covered"""
FATES = ("none", "late", "lost")
STEP = ("idle", "prefill", "decode", "wounded", "leaving")
POOL = ("plain", "recalling", "strained")
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
    ]
)
TO_UP = frozenset(
    [
        "Heartbeat",
        "Load",
        "BorrowQuery",
        "Register",
        "MembersQuery",
        "Tokens",
        "Progress",
        "Report",
        "HandedOver",
    ]
)
CANNOT = {
    "leaving": TO_STEP - {"Members"},
    "idle": TO_STEP - {"Welcome", "Released", "BorrowOffer", "Members", "Submit", "FencedOff"},
    "strained": {"Hello", "Pin", "Freeze"},
    "recalling": {"Hello"},
}
"""a step that leaves or is idle has asked for none of these, and a pool that is strained or calls
back has its step already: such cells are seen by accident only"""


def coverage(seen: Mapping[tuple[str, str, str], int]) -> dict[str, Any]:
    """``below``: cells that can occur and were seen too seldom, with how often."""
    cells = [(kind, fate, state) for kind in sorted(TO_STEP) for fate in FATES for state in STEP]
    cells += [(kind, fate, state) for kind in sorted(TO_POOL) for fate in FATES for state in POOL]
    cells += [(kind, "none", "up") for kind in sorted(TO_UP)]
    possible = [cell for cell in cells if cell[0] not in CANNOT.get(cell[2], ())]
    counts = {cell: seen.get(cell, 0) for cell in possible}
    below = {" ".join(cell): num for cell, num in counts.items() if num < ENOUGH}
    return {
        "cells": len(possible),
        "covered": len(possible) - len(below),
        "enough": ENOUGH,
        "below": below,
    }
