"""Performance of a cluster on paper: the real control plane in virtual time on modelled hardware.

Router, request table, schedulers, RManagers, planner and placements are those of the processes;
only steps, links and memories are models (``sim/hardware``). Nothing here draws a random number
but the workload, so the same recipe and seed give the same result, byte for byte.
"""
