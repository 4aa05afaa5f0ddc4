"""Prompt tokens per second of one instance, beside the products' bound:
``python -m bench.prefill [--threads 2] [--model smollm2] [--json] [key=value ...]``.
"""

import sys

from bench.decode import main

if __name__ == "__main__":
    sys.exit(main(prefill_only=True))
