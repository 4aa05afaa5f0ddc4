"""Load for an OpenAI-compatible server: what is sent when, what comes back, what it amounts to.

Knows HTTP and tokenizers; no torch, and nothing of instances.
"""
