"""A step that is driven by hand, and real pools over a transport, each in a thread of its own."""

import threading
import time

import torch
from cluster_harness import prompt

from engine import build
from engine.attention.dist import DistAttention
from engine.attention.kernel_backend import NativeBackend
from engine.attention.lenders import Lenders
from engine.config import load
from engine.core import BlockRef, Plan, Span
from engine.model.native_llama import NativeLlama
from engine.protocol import VERSION, Ack, Granted, Hello, Reserve, Write

TOKENS = 16
LENGTHS = (130, 70)
"""tokens of two sequences"""
LENT = ({0: 1, 1: 1, 2: 2, 4: 1, 5: 2}, {1: 2, 2: 2})
"""for each sequence: leaf -> holder"""


class Holder(threading.Thread):
    """A pool that serves until it is told to leave, or to rest."""

    def __init__(self, config, instance, shape, layout):
        super().__init__(daemon=True)
        self.instance = instance
        self.memory = build.build_pool(config, layout)
        transport = build.build_transport(config, self.memory)
        self.address = transport.listen()
        self.server, self.rmanager = build.build_pool_server(
            config,
            instance=instance,
            epoch=1,
            cluster="test",
            shape=shape,
            pool=self.memory,
            transport=transport,
        )
        self.leaving = threading.Event()
        self.resting = threading.Event()
        self.rests = threading.Event()
        self.start()

    def run(self):
        while not self.leaving.is_set():
            self.server.serve_once(0.01)
            while self.resting.is_set() and not self.leaving.is_set():
                self.rests.set()
                time.sleep(0.001)
        self.server.close()

    def rest(self):
        """From now on it does nothing, until ``resting`` is cleared."""
        self.rests.clear()
        self.resting.set()
        assert self.rests.wait(20)

    def leave(self):
        self.leaving.set()
        self.join(20)


class Step:
    """Prefills both sequences at home, lends some leaves, then decodes with them away."""

    def __init__(self, checkpoint, way="query", transport="shm", **attention):
        self.model = checkpoint.model
        assert type(self.model) is NativeLlama
        self.config = load(
            None,
            [
                "model.dtype=bfloat16",
                f"pool.block_tokens={TOKENS}",
                "pool.num_blocks=40",
                "pool.lending.keep_blocks=0",
                f"transport.name={transport}",
                "transport.options.max_body_bytes=16384",
                *(["transport.options.ring_bytes=172032"] if transport == "shm" else []),
            ],
        )
        shape = checkpoint.config.shape
        layout = build.layout_of(self.config, shape)
        self.own = Holder(self.config, 0, shape, layout)
        self.holders = {n: Holder(self.config, n, shape, layout) for n in (1, 2)}
        hello = Hello(VERSION, "test", 0, 1, layout.fingerprint)
        self.lenders = Lenders(build.build_transport(self.config), own=hello, debtor=hello)
        for holder in (self.own, *self.holders.values()):
            self.lenders.connect(holder.instance, holder.address, 10.0, 10.0)
        local = NativeBackend(
            NativeBackend.Config(), shape=shape, layout=layout, pool=self.own.memory
        )
        options = DistAttention.Config(way=way, **attention)
        self.backend = DistAttention(options, local=local, lenders=self.lenders)
        self.tables = [[BlockRef(0, 20 * n + leaf) for leaf in range(12)] for n in range(2)]
        self.number = 0

    def hear(self, kind, instance, count=1):
        heard = []
        while len(heard) < count:
            assert self.lenders.pump(10.0, [instance]), f"no {kind.__name__}"
            while self.lenders.inbox:
                message = self.lenders.inbox.popleft()[1]
                if isinstance(message, kind):
                    heard.append(message)
        return heard

    def lend(self, leaves=LENT):
        """Copies leaves to their holders; what lay here is overwritten."""
        layout, pool = self.own.memory.layout, self.own.memory
        for holder in self.holders:
            mine = [(n, leaf) for n in range(2) for leaf, to in leaves[n].items() if to == holder]
            if not mine:
                continue
            self.lenders.send(holder, Reserve(1, len(mine), 60.0))
            (granted,) = self.hear(Granted, holder)
            for slot, (n, leaf) in enumerate(mine):
                here = self.tables[n][leaf].block
                data = bytes(pool.block(here))
                for at in range(0, len(data), 16384):
                    last = at + 16384 >= len(data)
                    write = Write(granted.loan, slot, at, last)
                    self.lenders.send(holder, write, data[at : at + 16384])
                self.hear(Ack, holder)
                pool.block(here)[:] = b"\xff" * layout.block_bytes
                block, generation = granted.blocks[slot], granted.generations[slot]
                self.tables[n][leaf] = BlockRef(holder, block, granted.loan, slot, generation)

    def run(self, rows):
        """Logits of the next step, ``rows`` [(sequence, first position, number of rows)]."""
        self.number += 1
        spans, ids = [], []
        for n, first, num in rows:
            table = tuple(self.tables[n][: (first + num - 1) // TOKENS + 1])
            spans.append(Span(n, len(ids), num, first, table, 1))
            ids += prompt(200, n)[first : first + num]
        self.backend.begin(Plan(self.number, tuple(ids), tuple(spans)))
        positions = torch.cat([torch.arange(first, first + num) for _, first, num in rows])
        logits = self.model.forward(
            torch.tensor(ids), positions, torch.arange(len(ids)), self.backend
        )
        return logits, self.backend.end()

    def prefill(self):
        self.run([(n, 0, length) for n, length in enumerate(LENGTHS)])

    def close(self):
        self.lenders.close()
        for holder in (self.own, *self.holders.values()):
            holder.leave()


def decodes(number):
    return [(n, length + number, 1) for n, length in enumerate(LENGTHS)]
