"""A tiny random model that reads and writes bytes: what the true command needs to run."""

from pathlib import Path
from typing import Any

from tiny_models import make_tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

PROMPT = (
    "The pool process is the heart. One thread takes messages and partial computations in turn, "
    "so that to check and then to compute is one act. It never waits for its step process or for "
    "another instance, and so no two borrowers can wait for each other."
)


def byte_tokenizer() -> Tokenizer:
    """One token a byte, 256 of them; ids follow the alphabet's order."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def make_tiny_checkpoint(path: Path, **overrides: Any) -> Path:
    """Like ``make_tiny``, with a byte-level tokenizer.json and 256 ids."""
    make_tiny(path, vocab=256, **overrides)
    byte_tokenizer().save(str(path / "tokenizer.json"))
    return path


def prompt_ids() -> list[int]:
    return list(byte_tokenizer().encode(PROMPT).ids)
