"""``lendkv plan``: how many devices, instances and blocks a model and its contexts want, by
arithmetic that can be followed by hand, by the model of the hardware, and by the simulator.
"""
