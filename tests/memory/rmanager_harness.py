"""An RManager over a pool without bytes, and short ways to talk to it."""

from engine import protocol as p
from engine.core import BlockLayout
from engine.memory.effects import CopyIn, LosePeer, Reply
from engine.memory.rmanager import RManager

LAYOUT = BlockLayout(layers=1, kv_heads=1, head_dim=4, tokens=2, dtype="float32")
BLOCK_BYTES = LAYOUT.block_bytes
OWN, OWN_EPOCH = 0, 7


class FakePool:
    """Generations, and a note per block instead of bytes."""

    layout = LAYOUT

    def __init__(self, num_blocks):
        self.num_blocks = num_blocks
        self.generations = [0] * num_blocks
        self.notes = [None] * num_blocks

    def generation(self, block):
        return self.generations[block]

    def bump(self, block):
        self.generations[block] += 1


def hello(instance, epoch=1, **changes):
    fields = {"protocol": p.VERSION, "cluster": "test", "layout": LAYOUT.fingerprint}
    return p.Hello(**(fields | {"instance": instance, "epoch": epoch} | changes))


class Talk:
    """One pool of instance 0 and its peers; ``now`` is moved by the test."""

    def __init__(self, num_blocks=8, **config):
        self.pool = FakePool(num_blocks)
        config = {"lend_fraction": 1.0, "keep_blocks": 0} | config
        self.rmanager = RManager(
            RManager.Config(**config),
            instance=OWN,
            epoch=OWN_EPOCH,
            cluster="test",
            kernel_fingerprint="numpy",
            pool=self.pool,
        )
        self.now = 100.0

    def say(self, peer, message, num_bytes=0):
        """All outputs."""
        outputs = self.rmanager.handle(peer, message, self.now, num_bytes)
        self.rmanager.check()
        self.rmanager.heartbeat(address="", host="", now=self.now)  # the next check looks at it
        return outputs

    def ask(self, peer, message, num_bytes=0):
        """The answer to the peer, behind recalls; fails when it was lost."""
        outputs = self.say(peer, message, num_bytes)
        lost = [out for out in outputs if isinstance(out, LosePeer) and out.peer == peer]
        assert not lost, lost
        replies = [out.message for out in outputs if isinstance(out, Reply) and out.peer == peer]
        return next(reply for reply in replies if not isinstance(reply, p.Recall))

    def lost(self, peer, message, num_bytes=0):
        """Why the peer was lost."""
        return next(
            out.reason
            for out in self.say(peer, message, num_bytes)
            if isinstance(out, LosePeer) and out.peer == peer
        )

    def step(self, peer=0):
        return self.ask(peer, hello(OWN, OWN_EPOCH))

    def loan(self, peer, num_blocks=2, reservation=1, lease_s=10.0, written=True):
        """A granted loan with all slots committed."""
        granted = self.ask(peer, p.Reserve(reservation, num_blocks, lease_s))
        for slot in range(num_blocks if written else 0):
            self.ask(peer, p.Write(granted.loan, slot, 0, True), BLOCK_BYTES)
        return granted

    def carry_out(self, outputs, note):
        for out in outputs:
            if isinstance(out, CopyIn):
                self.pool.notes[out.block] = note
