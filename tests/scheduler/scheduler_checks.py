"""What must hold of a plan, and of a whole cluster at any time."""

from collections import Counter

from engine import protocol as p
from engine.core import BlockLayout
from engine.memory.books import BlockState
from engine.memory.loans import Debtor

LAYOUT = BlockLayout(layers=1, kv_heads=1, head_dim=4, tokens=2, dtype="float32")
TOKENS = LAYOUT.tokens


def check_plan(instance, plan):
    """A plan runs what it should, and writes only to blocks that nobody else uses."""
    spans = plan.spans
    assert 0 < plan.num_rows <= instance.scheduler._config.max_step_tokens
    assert len({span.sequence for span in spans}) == len(spans)
    assert len(spans) <= instance.scheduler._config.max_num_seqs
    row, prefills = 0, []
    for index, span in enumerate(spans):
        sequence = instance.sequence(span.sequence)
        end = span.first_position + span.num_rows
        assert span.row_start == row
        row += span.num_rows
        assert span.first_position == sequence.next_range[0]
        assert plan.token_ids[span.row_start : row] == tuple(
            sequence.token_ids[span.first_position : end]
        )
        assert span.table == tuple(sequence.table[: LAYOUT.blocks_for(end)])
        assert (index in plan.sampled) == (end == len(sequence.token_ids))
        prefills.append(sequence.is_prefill)
        for ref in span.table[span.first_position // TOKENS :]:
            assert not ref.loan, "keys are written to a lent block"
            assert ref.instance == instance.number
            users = [
                one.number
                for one in instance.scheduler.running
                if ref.block in one.spare
                or any(r.instance >= 0 and not r.loan and r.block == ref.block for r in one.table)
            ]
            assert users == [span.sequence], "keys are written to a block in other use"
    assert prefills == sorted(prefills), "decodes come first"


def check_cluster(cluster):
    for instance in cluster.instances:
        instance.rmanager.check()
        instance.scheduler.roster.check()
        _check_drawn(cluster, instance)
        _check_states(instance)
        _check_loans(cluster, instance)
        check_allowances(instance)


def check_allowances(instance):
    """No tenant has more on loan than its requests allow, deals under way included."""
    scheduler = instance.scheduler
    sequences = {one.number: one for one in scheduler.roster.all()}
    borrowed, limits = Counter(), {}
    for sequence in sequences.values():
        request = sequence.request
        limits[request.tenant] = request.max_borrowed
        for key, slots in sequence.loans.items():
            if not scheduler.debts.is_pin(key):
                borrowed[request.tenant] += slots
    for deal in scheduler.negotiator._deals.values():
        tenant = sequences[deal.sequence].request.tenant
        borrowed[tenant] += sum(len(grant.blocks) for grant in deal.grants.values())
    for tenant, limit in limits.items():
        assert limit is None or borrowed[tenant] <= limit


def _check_drawn(cluster, instance):
    """What the pool thinks that its step has is what it has, or what is between them."""
    channel = cluster.channels[instance.number, instance.number]
    store = instance.scheduler.holdings.store
    drawn = [*store._free, *store._references]
    drawn += [b for m in channel.down if isinstance(m, p.Drawn) for b in (*m.blocks, *m.cached)]
    drawn += [b for m, _ in channel.up if isinstance(m, p.Give) for b in m.blocks]
    held = instance.rmanager._lending._held
    assert sorted(drawn) == sorted([*instance.rmanager.books.blocks(BlockState.USED), *held])
    assert store._cached <= held


def _check_states(instance):
    scheduler = instance.scheduler
    waiting = scheduler.admission.waiting
    assert len({one.number for one in waiting}) == len(waiting)
    for sequence in waiting:
        if not sequence.table:
            assert not (sequence.spare)
            assert not (sequence.targets)
            assert not (sequence.loans)
            assert not sequence.num_computed
    for sequence in scheduler.roster.all():
        assert sequence not in waiting or sequence not in scheduler.running
        for first, end in sequence.holes:
            assert 0 <= first < end <= sequence.num_computed
            assert not end % TOKENS
        begun = {first // TOKENS for first, _ in sequence.holes}
        lost = {leaf for leaf, ref in enumerate(sequence.table) if ref.instance < 0}
        ranges = [range(a // TOKENS, b // TOKENS) for a, b in sequence.holes]
        in_holes = {leaf for leaves in ranges for leaf in leaves}
        assert lost <= in_holes
        assert begun <= in_holes
        slots = Counter((ref.instance, ref.loan) for ref in sequence.table if ref.loan)
        slots.update((ref.instance, ref.loan) for ref in sequence.targets.values())
        assert slots == Counter(sequence.loans), "slots that no leaf has or will have"
        assert sequence.moving <= sequence.targets.keys()
    assert not scheduler.negotiator.outcomes


def _check_loans(cluster, instance):
    """A loan that its debtor may use by its own clock stands at the creditor (promise 5)."""
    debts = instance.scheduler.debts
    known = {key for sequence in instance.scheduler.roster.all() for key in sequence.loans}
    for deal in instance.scheduler.negotiator._deals.values():
        known |= {(holder, grant.loan) for holder, grant in deal.grants.items()}
    search = instance.scheduler.pins._search
    known |= search.loans.keys() if search else set()
    assert known == debts._debts.keys()
    for (holder, number), debt in debts._debts.items():
        if holder in instance.lost or debt.ends <= cluster.now:
            continue
        loan = cluster.instances[holder].rmanager._lending.loans.get(number)
        recalled = _recalled(cluster, instance, holder, number)
        wanted = _wanted(instance, holder, number)
        if loan is None:  # all of it was called back
            assert wanted <= recalled
            continue
        assert loan.debtor == Debtor(instance.number, instance.epoch)
        assert loan.expires >= debt.ends
        standing = _standing(cluster, instance, holder, loan)
        assert standing <= wanted
        assert wanted - standing <= recalled


def _standing(cluster, instance, holder, loan):
    """Slots that stand at the creditor and are not on their way back."""
    slots = set(loan.standing_slots)
    for message, _ in cluster.channels[instance.number, holder].up:
        if isinstance(message, p.Release) and message.loan == loan.number:
            slots -= set(message.slots)
    return slots


def _recalled(cluster, instance, holder, number):
    """Slots that the creditor has called back, and may have taken when their time was over."""
    slots = set()
    for message in cluster.channels[instance.number, holder].down:
        if isinstance(message, p.Recall) and message.loan == number:
            slots |= set(message.slots)
    for sequence in instance.scheduler.roster.all():
        refs = [sequence.table[leaf] for leaf in sequence.returning]
        slots |= {ref.slot for ref in refs if (ref.instance, ref.loan) == (holder, number)}
    return slots


def _wanted(instance, holder, number):
    """Slots of a loan that a leaf has or will have, or that a deal has just got."""
    wanted = set()
    search = instance.scheduler.pins._search
    pinned = [*search.found.values()] if search else []
    for sequence in instance.scheduler.roster.all():
        refs = [*sequence.table, *sequence.targets.values(), *pinned]
        wanted |= {ref.slot for ref in refs if (ref.instance, ref.loan) == (holder, number)}
    for deal in instance.scheduler.negotiator._deals.values():
        grant = deal.grants.get(holder)
        if grant and grant.loan == number:
            wanted |= set(range(len(grant.blocks)))
    return wanted
