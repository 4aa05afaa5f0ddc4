"""Cases: what is timed, in sizes that suit the model's positions and the recipe's steps."""

from dataclasses import dataclass

BATCHES = (1, 2, 4, 8, 16, 32)
SETTLING, GAPS = 3, 12
"""tokens that are not measured while a batch gathers, and gaps that are"""
LONGEST = 4096
"""tokens: the longest context that is measured"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decode:
    """So many sequences of so long a context, decoding together."""

    batch: int
    context: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Of pools and contexts, in blocks and tokens."""

    block_tokens: int
    own_blocks: int
    """pool of instance 0, which borrows"""
    big_blocks: int
    """pool of instance 1, which lends"""
    short: int
    long: int
    step_tokens: int

    @property
    def decodes(self) -> list[Decode]:
        """Few keys for each batch, many for some."""
        cases = [Decode(batch=batch, context=self.short) for batch in BATCHES]
        for batch in (1, 4, 16):
            context = self.long // batch
            if context >= 2 * self.short:
                cases.append(Decode(batch=batch, context=context))
        return cases

    @property
    def prefills(self) -> list[int]:
        """Rows of one step that is all of a prompt."""
        counts, rows = [], 1
        while rows < min(self.step_tokens, self.long):
            counts.append(rows)
            rows *= 2 if rows < 32 else 4
        return [*counts, min(self.step_tokens, self.long)]

    @property
    def lent_contexts(self) -> list[int]:
        """Contexts at instance 0 of which a little and most is lent."""
        own = self.own_blocks * self.block_tokens
        return [one for one in (own + own // 4, self.long) if one <= self.long and one > own]


def sizes_of(*, max_positions: int, block_tokens: int, step_tokens: int) -> Sizes:
    """The borrower's pool takes a step's chunks, a quarter of the longest context if that is more.

    The longest context takes a whole number of steps, eight at the least.
    """
    longest = min(LONGEST, max_positions) - (SETTLING + GAPS) - 2 * block_tokens
    blocks = max(8, longest // block_tokens)
    steps = max(1, min(step_tokens, blocks * block_tokens // 8))
    passing = -(-steps // block_tokens) + 1
    own = max(2 * passing, blocks // 4)
    batch = BATCHES[-1] * (2 + (SETTLING + GAPS + 32) // block_tokens)
    return Sizes(
        block_tokens=block_tokens,
        own_blocks=own,
        big_blocks=max(blocks + own, batch) + 8,
        short=min(16, block_tokens),
        long=blocks * block_tokens // steps * steps,
        step_tokens=steps,
    )
