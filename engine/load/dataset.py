"""What is sent: prompts and lengths, drawn or read from files."""

from collections.abc import Callable

import numpy as np

from engine.errors import ConfigError
from engine.load.options import Options
from engine.load.records import read_records
from engine.load.sample import Sample
from engine.load.trace import timed_trace
from engine.load.words import Words
from engine.model.tokenizer import Tokenizer


def random(options: Options, tokenizer: Tokenizer, rng: np.random.Generator) -> list[Sample]:
    """Random words behind a common prefix; lengths are uniform within the range ratio."""
    words, ratio = Words(tokenizer), options.random_range_ratio
    prefix = words.draw(options.random_prefix_len, rng)

    def lengths(middle: int) -> list[int]:
        low, high = int(middle * (1 - ratio)), int(np.ceil(middle * (1 + ratio)))
        drawn = rng.integers(max(low, 1), max(high, 1), options.num_prompts, endpoint=True)
        return [int(length) for length in drawn]

    sizes = lengths(options.input_len or options.random_input_len)
    outputs = lengths(options.output_len or options.random_output_len)
    return [
        Sample(*words.text(prefix + words.draw(size, rng), rng), output)
        for size, output in zip(sizes, outputs, strict=True)
    ]


def prefix_repetition(
    options: Options, tokenizer: Tokenizer, rng: np.random.Generator
) -> list[Sample]:
    """A few prefixes, each in as many prompts, with suffixes of their own, in random order."""
    words = Words(tokenizer)
    prefixes = [
        words.draw(options.prefix_repetition_prefix_len, rng)
        for _ in range(options.prefix_repetition_num_prefixes)
    ]
    output = options.output_len or options.prefix_repetition_output_len
    return [
        Sample(
            *words.text(
                prefixes[index % len(prefixes)]
                + words.draw(options.prefix_repetition_suffix_len, rng),
                rng,
            ),
            output,
        )
        for index in rng.permutation(options.num_prompts)
    ]


def custom(options: Options, tokenizer: Tokenizer, rng: np.random.Generator) -> list[Sample]:
    """Lines ``{"prompt": ..., "output_tokens": ...}``; they begin anew when there are too few."""
    found = []
    for where, record in read_records(options):
        prompt = record.get("prompt")
        if not isinstance(prompt, str) or not prompt:
            raise ConfigError(f'{where}: wanted is "prompt", a text')
        output = options.output_len or record.get("output_tokens") or options.custom_output_len
        if not isinstance(output, int) or output < 1:
            raise ConfigError(f'{where}: "output_tokens" is {output!r}, no number of tokens')
        found.append((prompt, output))
    if not found:
        raise ConfigError(f"--dataset-path {options.dataset_path!r} has no prompts")
    if not options.disable_shuffle:
        found = [found[index] for index in rng.permutation(len(found))]
    chosen = [found[index % len(found)] for index in range(options.num_prompts)]
    return [Sample(prompt, len(tokenizer.encode(prompt)), output) for prompt, output in chosen]


DATASETS: dict[str, Callable[[Options, Tokenizer, np.random.Generator], list[Sample]]] = {
    "random": random,
    "prefix_repetition": prefix_repetition,
    "custom": custom,
    "timed_trace": timed_trace,
}


def load_samples(options: Options, tokenizer: Tokenizer) -> list[Sample]:
    """``num_prompts`` of them, fewer from a short trace; the same seed makes the same.

    Raises ConfigError.
    """
    return DATASETS[options.dataset_name](options, tokenizer, np.random.default_rng(options.seed))
