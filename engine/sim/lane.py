"""Lane: messages to one receiver in order; now and then one waits for the worst moment."""

from collections import deque

from engine.sim.world import Action, Process, World

PATIENCE_S = 0.3
LOOK_S = 0.003


class Lane:
    """What is behind a message that waits waits too."""

    def __init__(self, world: World, receiver: Process) -> None:
        self._world = world
        self._receiver = receiver
        self._queue: deque[tuple[str, Action]] = deque()

    def arrive(self, kind: str, deliver: Action) -> None:
        """Deliver at once, or once the receiver is in the state that such messages met least."""
        self._queue.append((kind, deliver))
        if len(self._queue) == 1:
            self._drain()

    def _drain(self) -> None:
        while self._queue:
            kind, _ = self._queue[0]
            wanted = self._world.rarest(kind, self._receiver.states)
            if wanted and wanted != self._receiver.state:
                self._world.provoke(kind, self._receiver, wanted)
                self._wait(wanted, self._world.now + PATIENCE_S)
                return
            self._pass()

    def _wait(self, wanted: str, until: float) -> None:
        world = self._world
        if self._receiver.state in (wanted, "dead") or world.now >= until:
            self._pass()
            self._drain()
        else:
            world.at(world.now + LOOK_S, lambda: self._wait(wanted, until))

    def _pass(self) -> None:
        _, deliver = self._queue[0]
        deliver()
        self._queue.popleft()
