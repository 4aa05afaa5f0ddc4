"""Deterministic simulation: the real machines of pools, steps, planner and gateway, and faults."""
