"""Who runs when and where keys go: state machines without I/O, tensors or a clock of their own."""

from engine.registry import Registry

PLACEMENTS = Registry(
    "placement",
    {
        "local_only": "engine.scheduler.local_only:LocalOnly",
        "ledger": "engine.scheduler.ledger:LedgerPlacement",
        "greedy": "engine.scheduler.greedy:GreedyPlacement",
        "balanced": "engine.scheduler.balanced:BalancedPlacement",
    },
)
