"""Attention in Triton: one source for GPUs and for Triton's interpreter (TRITON_INTERPRET=1).

``attend``, ``merge`` and ``write`` hold the kernels and import triton; ``units`` and ``trees`` are
their tables; ``launch`` runs the kernels; ``backend`` is what a recipe names.
"""
