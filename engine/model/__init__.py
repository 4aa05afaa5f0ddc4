"""Models: checkpoints and tokenizers, the Llama family's forward pass, sampling.

Nothing here knows where keys and values live; only ``llama``, ``rope``, ``cache`` and ``sampler``
import torch.
"""
