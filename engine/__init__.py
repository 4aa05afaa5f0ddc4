"""LendKV: independent LLM serving instances that lend each other KV-cache memory."""

__version__ = "0.1.0"
