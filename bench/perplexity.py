"""What 8 bits cost in accuracy: ``python -m bench.perplexity [--json] [key=value ...]``.

Perplexity of the embedded model on the beginnings of five books of the project's workload data
(``../shared/data``), the same tokens in windows of ``--window`` with weights, or keys and values,
of 8 bits. Without, the model runs in bfloat16, and so do the shipped weights (Q4_1), whose values
bfloat16 holds nearly exactly. Beside it: the mean divergence of the tokens' distributions from
those in bfloat16, and how often the likeliest token is the same.
"""

import argparse
import gzip
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from engine.build import build_pool, layout_of
from engine.build_attention import attention_parts
from engine.config import Config, load
from engine.core import BlockRef, Plan, Span
from engine.model import checkpoint as checkpoints
from engine.registry import construct

TEXTS = Path("../shared/data/prompts/long_texts.jsonl.gz")
FORMS = {
    "none": (),
    "int8": ("model.quantization=int8",),
    "int8 keys": ("pool.dtype=int8",),
    "fp8 keys": ("pool.dtype=fp8",),
}
CHARACTERS = 12
"""read of a book for each token wanted: more than enough"""


class Reader:
    """A model that reads windows, each by itself."""

    def __init__(self, config: Config, window: int) -> None:
        wanted = config.model
        self.checkpoint = checkpoints.load(
            wanted.path, wanted.dtype, bits=wanted.bits, quantization=wanted.quantization
        )
        shape = self.checkpoint.config.shape
        layout = layout_of(config, shape)
        blocks = range(layout.blocks_for(window))
        self._table = tuple(BlockRef(0, block) for block in blocks)
        small = replace(config, pool=replace(config.pool, num_blocks=len(blocks), sizes=[]))
        _, _, local, options = attention_parts(config)
        parts = {"shape": shape, "layout": layout, "pool": build_pool(small, layout)}
        self._backend = construct(local, options, num_threads=config.threads, **parts)

    @torch.inference_mode()
    def log_probabilities(self, ids: list[int]) -> Tensor:
        """[T, V] of what follows each token."""
        self._backend.begin(Plan(1, tuple(ids), (Span(1, 0, len(ids), 0, self._table, 1),)))
        rows = torch.arange(len(ids))
        logits_TV = self.checkpoint.model.forward(torch.tensor(ids), rows, rows, self._backend)
        self._backend.end()
        return logits_TV.log_softmax(-1)


def texts() -> list[str]:
    """The books' beginnings, long enough for any number of tokens asked for."""
    if not TEXTS.exists():
        raise SystemExit(
            f"{TEXTS} is not there: this measurement needs the project's workload data beside "
            "the repository"
        )
    with gzip.open(TEXTS, "rt") as file:
        return [json.loads(line)["prompt"] for line in file]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--window", type=int, default=1024, help="tokens that are read together")
    parser.add_argument("--windows", type=int, default=4, help="of each book")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    args, overrides = parser.parse_known_args()
    books = texts()
    torch.set_num_threads(args.threads)
    settings = [f"threads={args.threads}", *overrides]
    readers = [Reader(load(None, [*settings, *form]), args.window) for form in FORMS.values()]
    tokenizer = readers[0].checkpoint.tokenizer
    assert tokenizer is not None
    num_tokens = 0
    losses, divergences, same = ([0.0 for _ in readers] for _ in range(3))
    for text in books:
        ids = tokenizer.encode(text[: args.window * args.windows * CHARACTERS])
        for start in range(0, args.window * args.windows, args.window):
            window = ids[start : start + args.window]
            said = torch.tensor(window[1:])
            num_tokens += len(said)
            plain = readers[0].log_probabilities(window)[:-1]
            for i, reader in enumerate(readers):
                found = reader.log_probabilities(window)[:-1] if i else plain
                losses[i] -= float(found.gather(-1, said[:, None]).double().sum())
                divergences[i] += float((plain.exp() * (plain - found)).double().sum())
                same[i] += int((plain.argmax(-1) == found.argmax(-1)).sum())
    facts: dict[str, object] = {"tokens": num_tokens, "window": args.window}
    print(f"{num_tokens} tokens in windows of {args.window}")
    for i, name in enumerate(FORMS):
        perplexity = math.exp(losses[i] / num_tokens)
        ratio = math.exp((losses[i] - losses[0]) / num_tokens)
        divergence, equal = divergences[i] / num_tokens, same[i] / num_tokens
        facts[name] = {
            "perplexity": perplexity,
            "ratio": ratio,
            "divergence": divergence,
            "same_likeliest": equal,
        }
        print(
            f"{name:9} perplexity {perplexity:.4f} ({ratio - 1:+.3%}), divergence "
            f"{divergence:.2e} nats, likeliest token the same for {equal:.2%}"
        )
    if args.json:
        print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
