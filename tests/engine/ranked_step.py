"""A step of several tp ranks, each a thread with channels of its own to real pools."""

import torch
from cluster_harness import prompt
from msgspec import structs
from native_step import LENGTHS, TOKENS, Holder, Step
from tp.parts import part_of
from tp.thread_ranks import ThreadRanks

from engine import build
from engine.attention.dist import DistAttention
from engine.attention.kernel_backend import NativeBackend
from engine.attention.lenders import Lenders
from engine.config import load
from engine.core import BlockRef, Plan, Span
from engine.errors import WontFit
from engine.model.runner import ModelRunner
from engine.model.shard import Shard
from engine.protocol import VERSION, Hello


class RankedStep(Step):
    """Like ``Step``: prefills at home, lends some leaves, then decodes with them away."""

    def __init__(self, checkpoint, size, way="query", transport="shm", **attention):
        self.checkpoint, self.size = checkpoint, size
        self.config = load(
            None,
            [
                "model.dtype=float32",
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
        self.backends, self.every_lenders = [], []
        for rank in range(size):
            shard = Shard.of(checkpoint.config, rank, size)
            told = structs.replace(hello, rank=rank)
            lenders = Lenders(build.build_transport(self.config), own=told, debtor=told)
            for holder in [self.own][rank:] + list(self.holders.values()):
                lenders.connect(holder.instance, holder.address, 10.0, 10.0)
                while not lenders.get(holder.instance).kernel:
                    assert lenders.pump(10.0, [holder.instance]), "no Welcome"
            local = NativeBackend(
                NativeBackend.Config(),
                shape=shard.config(checkpoint.config).shape,
                layout=layout.part(shard.kv_heads),
                pool=self.own.memory,
            )
            options = DistAttention.Config(way=way, **attention)
            self.backends.append(DistAttention(options, local=local, lenders=lenders))
            self.every_lenders.append(lenders)
        self.lenders = self.every_lenders[0]
        self.tables = [[BlockRef(0, 20 * n + leaf) for leaf in range(12)] for n in range(2)]
        self.number = 0

    def plan(self, rows):
        self.number += 1
        spans, ids = [], []
        for n, first, num in rows:
            table = tuple(self.tables[n][: (first + num - 1) // TOKENS + 1])
            spans.append(Span(n, len(ids), num, first, table, 1))
            ids += prompt(200, n)[first : first + num]
        return Plan(self.number, tuple(ids), tuple(spans), tuple(range(len(spans))))

    def run(self, rows):
        """Logits of each span's last row, and what each rank found poisoned."""
        plan = self.plan(rows)

        def of_rank(collective):
            torch.set_num_threads(1)
            model = part_of(self.checkpoint, collective)
            runner = ModelRunner(model, self.backends[collective.rank], collective)
            try:
                return runner.run(plan)
            except WontFit as error:
                return error

        found = ThreadRanks(self.size).run(of_rank)
        refused = [one for one in found if isinstance(one, WontFit)]
        if refused:
            assert len(refused) == self.size, "some ranks went on"
            raise refused[0]
        return found[0][0], [poisoned for _, poisoned in found]

    def prefill(self):
        return self.run([(n, 0, length) for n, length in enumerate(LENGTHS)])

    def close(self):
        for lenders in self.every_lenders:
            lenders.close()
        for holder in (self.own, *self.holders.values()):
            holder.leave()
