"""LendKV and other engines on the same weights and prompts, in turn."""
