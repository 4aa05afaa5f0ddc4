"""Derives a workload from a published trace's lengths: see README.md beside this file.

python bench/workloads/derive.py skewed mooncake_conversation.jsonl.gz > bench/workloads/skewed.csv
python bench/workloads/derive.py uniform azure2023_conv.csv.gz > bench/workloads/uniform.csv
python bench/workloads/derive.py held sharegpt.csv.gz > bench/workloads/held.csv
"""

import csv
import gzip
import json
import random
import sys
from collections.abc import Iterator

ROWS = {"skewed": 32, "uniform": 48, "held": 32}
PROMPT_BY = {"skewed": 20, "uniform": 8, "held": 1}
"""prompts are divided by this, so that they suit a model of 8,192 positions on a core"""
OUTPUT_BY = {"skewed": 3, "uniform": 2, "held": 3}
MAX_PROMPT, MIN_TOKENS = 1024, 8
ARRIVALS_PER_S = {"skewed": 4.0, "uniform": 3.0, "held": 3.0}
AWAY = {"skewed": 0.1, "uniform": 0.5, "held": 0.2}
"""share of requests that come to instance 1"""


def lengths(path: str) -> Iterator[tuple[int, int]]:
    """Prompt and output tokens of each request of the trace."""
    with gzip.open(path, "rt") as file:
        rows = map(json.loads, file) if ".jsonl" in path else csv.DictReader(file)
        for row in rows:
            yield int(row["prompt_tokens"]), int(row["output_tokens"])


def main() -> None:
    kind, path = sys.argv[1:]
    numbers = random.Random(0)
    chosen = numbers.sample(list(lengths(path)), ROWS[kind])
    print("arrival_s,instance,prompt_tokens,output_tokens")
    now = 0.0
    for prompt, output in chosen:
        prompt = min(MAX_PROMPT, max(MIN_TOKENS, prompt // PROMPT_BY[kind]))
        output = max(MIN_TOKENS, output // OUTPUT_BY[kind])
        print(f"{now:.2f},{int(numbers.random() < AWAY[kind])},{prompt},{output}")
        now += numbers.expovariate(ARRIVALS_PER_S[kind])


if __name__ == "__main__":
    main()
