"""Loads as steps would tell them, for the placements' tests."""

from engine import protocol as p


def load_of(instance, sequences, *, waiting=0, waiting_blocks=0, step_s=0.02):
    """``sequences``: (blocks, sealed blocks at home, tokens of the answer) of each running one."""
    return p.Load(
        instance,
        1,
        len(sequences),
        waiting,
        waiting_blocks,
        {
            number: p.RequestLoad("decode", num_output, 0, blocks, local)
            for number, (blocks, local, num_output) in enumerate(sequences)
        },
        step_s,
        home_blocks=sum(local + 1 for _, local, _ in sequences),
        away_blocks=sum(max(0, blocks - local - 1) for blocks, local, _ in sequences),
    )
