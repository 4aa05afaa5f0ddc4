"""KV events against the truth: what a step's store and its pool's books hold, at any time."""

from hypothesis import example, given
from hypothesis import strategies as st
from scheduler_checks import TOKENS
from scheduler_cluster import Cluster

from engine.memory.blocks import chain
from engine.memory.contents import Contents
from engine.protocol import Evicted
from engine.protocol.kv_events import AllBlocksCleared, BlockRemoved, BlockStored

requests = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(1, 40), st.integers(1, 12)),
    min_size=1,
    max_size=8,
)


class Subscriber:
    """Builds what an instance has from its events alone."""

    def __init__(self):
        self.here, self.lent, self.sealed = set(), [], set()

    def take(self, events):
        for event in events:
            match event:
                case AllBlocksCleared():
                    self.here, self.lent = set(), []
                case BlockStored(locality="LOCAL"):
                    [content] = event.block_hashes
                    assert content not in self.here
                    parent = event.parent_block_hash
                    assert [content] == chain(parent or b"", event.token_ids, 1, TOKENS)
                    assert event.block_size == TOKENS
                    self.here.add(content)
                    self.sealed.add(content)
                case BlockStored(locality="REMOTE"):
                    self.lent.append((event.ownership, *event.block_hashes))
                case BlockRemoved(locality="LOCAL"):
                    self.here.remove(event.block_hashes[0])
                case BlockRemoved(locality="REMOTE"):
                    self.lent.remove((event.ownership, *event.block_hashes))


class Telling(Cluster):
    """Its pools tell their steps of what they evict, as PoolServer does."""

    def deliver_up(self, debtor, instance):
        super().deliver_up(debtor, instance)
        evicted = self.instances[instance].rmanager.books.evicted
        if evicted:
            self.channels[instance, instance].down.append(Evicted(list(evicted)))
            evicted.clear()


def truth(instance, sealed):
    """Hashes here, and lent, of what was announced; the pool may have more from others."""
    store, books = instance.scheduler.holdings.store, instance.rmanager.books
    here = ({*store._hashes.values()} | books._cached.keys()) & sealed
    debts = instance.scheduler.debts
    lent = [
        (f"instance-{ref.instance}", content)
        for sequence in instance.scheduler.roster.all()
        for ref, content in zip(sequence.table, sequence.hashes, strict=False)
        if ref.loan and not debts.is_pin((ref.instance, ref.loan))
    ]
    return here, sorted(lent)


@given(sizes=st.tuples(*[st.integers(6, 24)] * 3), wanted=requests)
@example(sizes=(6, 6, 21), wanted=[(0, 0, 1, 1), (0, 0, 11, 4), (2, 0, 37, 1), (1, 0, 12, 5)])
def test_events_tell_what_can_be_read(sizes, wanted):
    cluster = Telling(sizes, max_step_tokens=4, grow_blocks=1)
    readers = [Subscriber() for _ in sizes]
    used = [set() for _ in sizes]
    for instance in cluster.instances:
        instance.scheduler.contents.start()
    for number in range(80):
        if number % 4 == 0 and wanted:
            instance, head, num_prompt, max_tokens = wanted.pop()
            cluster.submit(instance, [head, *range(num_prompt)], max_tokens)
        cluster.round()
        cluster.now += 0.1
        for instance in cluster.instances:
            for sequence in instance.scheduler.roster.all():
                used[instance.number].update(sequence.hashes)
        for instance, reader in zip(cluster.instances, readers, strict=True):
            reader.take(instance.scheduler.contents.take())
            assert reader.here == instance.scheduler.contents.here
            here, lent = truth(instance, reader.sealed)
            assert sorted(reader.lent) == lent
            assert reader.here <= here
            # What another instance sealed, or had fetched, and left here is not this one's to tell.
            others = [one.sealed for one in readers if one is not reader]
            others += [used[one.number] for one in cluster.instances if one is not instance]
            assert here - reader.here <= set().union(*others)


def test_nothing_is_kept_where_nobody_listens():
    contents = Contents()
    contents.sealed(b"a", b"", [1, 2])
    contents.moved((1, 1, 0), b"a", b"", [1, 2])
    contents.released(b"a", given=True)
    contents.ended(1, 1)
    assert contents.take() == []
    assert contents.here == set()
