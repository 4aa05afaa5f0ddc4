"""What an instance and its peers are asked to do: sequences, their prompts, 64 tokens each."""

from typing import NamedTuple

NUM_STEPS = 64


class Case(NamedTuple):
    """``sequences`` prompts of ``prompt`` tokens at a time, and the figures that come of it."""

    decode: str
    sequences: int
    prompt: int
    prefill: str | None = None
    """None where prompts are too short to time"""


CASES = (
    Case("decode 1", 1, 64),
    Case("decode 8", 8, 64),
    Case("decode 32", 32, 64),
    Case("decode 1 at 512", 1, 512, "prefill 512"),
    Case("decode 1 at 7k", 1, 7000, "prefill 7k"),
)
