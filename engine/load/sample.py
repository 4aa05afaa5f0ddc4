"""What one request is made of."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    prompt: str
    num_prompt: int
    """tokens by our tokenizer; the server may put some before them"""
    num_output: int
    """tokens at most"""
    arrival_s: float | None = None
    """seconds from the start, where a trace says so"""
