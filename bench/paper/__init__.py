"""The paper's evaluation in the simulator: ``python -m bench.paper``. See docs/paper.md."""
