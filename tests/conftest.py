"""Hypothesis profiles: ``dev`` by default, ``ci`` by ``--hypothesis-profile=ci``."""

from hypothesis import HealthCheck, settings

_shared = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=50, **_shared)
settings.register_profile("ci", max_examples=300, derandomize=True, **_shared)
settings.load_profile("dev")
