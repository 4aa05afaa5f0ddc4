"""Report: many histories' findings as one, for people or as JSON."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from engine.sim.coverage import coverage
from engine.sim.history import Found

SITUATIONS = (
    "recall_in_prefill",
    "mutual_debt",
    "double_holder_death",
    "joined",
    "donors",
    "left",
    "recovered_blocks",
    "pinned_blocks",
)


def merge(found: Iterable[Found]) -> dict[str, Any]:
    """The figures of the acceptance, in their order; ``failing_seeds`` last."""
    seen: Counter[tuple[str, str, str]] = Counter()
    notes: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    total: Counter[str] = Counter()
    failing, texts = [], []
    for one in found:
        seen.update(one.coverage)
        notes.update(one.notes)
        faults.update(one.faults)
        total["histories"] += 1
        total["messages"] += one.messages
        total["violations"] += len(one.violations)
        total["lost_blocks"] += one.lost_blocks
        total["leaked_blocks"] += one.leaked_blocks
        total["unfinished_requests"] += len(one.unfinished)
        if not one.is_clean:
            failing.append(one.seed)
            texts += [f"seed {one.seed}: {text}" for text in one.violations[:3]]
    return {
        "histories": total["histories"],
        "messages": total["messages"],
        "faults_injected": sum(faults.values()),
        "violations": total["violations"],
        "lost_blocks": total["lost_blocks"],
        "leaked_blocks": total["leaked_blocks"],
        "wrong_reads": notes["wrong_reads"],
        "unfinished_requests": total["unfinished_requests"],
        "coverage": coverage(seen),
        "situations": {name: notes[name] for name in SITUATIONS},
        "stale_asks_refused": notes["stale_asks_refused"],
        "recalls": notes["recalls"],
        "recall_deadlines": notes["recall_deadlines"],
        "rests": notes["rests"],
        "recomputed_tokens": notes["recomputed_tokens"],
        "reused_tokens": notes["reused_tokens"],
        "faults": dict(sorted(faults.items())),
        "failing_seeds": failing,
        "what": texts,
    }


def as_text(report: dict[str, Any], seconds: float) -> str:
    cells = report["coverage"]
    lines = [
        f"{report['histories']} histories, {report['messages']:,} messages, "
        f"{report['faults_injected']:,} faults in {seconds:.0f} s",
        *(
            f"  {name:20} {report[name]:,}"
            for name in (
                "violations",
                "lost_blocks",
                "leaked_blocks",
                "wrong_reads",
                "unfinished_requests",
                "stale_asks_refused",
                "recalls",
                "recall_deadlines",
                "rests",
                "recomputed_tokens",
                "reused_tokens",
            )
        ),
        f"  {cells['covered']} of {cells['cells']} cells seen {cells['enough']} times",
        *(f"  {name:20} {number:,}" for name, number in report["situations"].items()),
        *report["what"],
    ]
    return "\n".join(lines)


def as_json(report: dict[str, Any]) -> str:
    return json.dumps(report)
