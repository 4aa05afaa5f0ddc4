"""A pool's memory that holds tokens where keys would lie."""

from scheduler_checks import LAYOUT, TOKENS


class FakeMemory:
    """Per block and slot, the tokens whose keys lie there."""

    layout = LAYOUT

    def __init__(self, num_blocks):
        self.num_blocks = num_blocks
        self.generations = [0] * num_blocks
        self.keys = [[None] * TOKENS for _ in range(num_blocks)]

    def generation(self, block):
        return self.generations[block]

    def bump(self, block):
        self.generations[block] += 1
        self.keys[block] = [None] * TOKENS
