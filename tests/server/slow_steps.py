"""A callback that makes steps of a tiny model last, so that somebody can look meanwhile."""

import time

from engine.callbacks import Callback


class SlowSteps(Callback):
    def on_step_start(self, plan):
        time.sleep(0.02)
