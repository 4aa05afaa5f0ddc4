"""Joiner: somebody who wants to belong to the cluster asks for a number until there is one."""

from collections.abc import Callable

from engine import protocol as p
from engine.sim.post import Party
from engine.sim.truth import layout_of
from engine.sim.world import World

ASK_S = 0.3


class Joiner(Party):
    """An instance to be, or a donor."""

    def __init__(
        self,
        world: World,
        *,
        ask: Callable[[Party, p.Message], None],
        joined: Callable[[int], None],
    ) -> None:
        ticket = world.chance.getrandbits(47)
        super().__init__(world, f"joiner{ticket}", ask)
        self._joined = joined
        layout = layout_of(world.config.block_tokens).fingerprint
        self._wish = p.Join(p.VERSION, layout, ticket)

    def start(self) -> None:
        super().start()
        self.every(ASK_S, lambda: self.to_planner(self._wish))

    def on_planner(self, message: p.Message) -> None:
        if isinstance(message, p.Joined) and message.ticket == self._wish.ticket:
            self.stop()  # answered twice, it has one number
            self._joined(message.instance)
