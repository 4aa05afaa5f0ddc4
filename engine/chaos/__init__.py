"""Chaos: faults on the real processes of a cluster, under load, with an oracle for every token."""
