"""Hardware as a model: how long steps, questions, copies and collectives take. No torch, no I/O
but the profiles' files.

Every constant stands in a file of ``profiles/`` with its source, or is called an assumption.
"""
