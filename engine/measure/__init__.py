"""``lendkv profile``: this machine measured with two real instances, as a hardware profile that the
simulator and ``lendkv plan`` load.
"""
