"""Protects promise 10: short of memory, a sequence borrows, then takes host memory, then gives way.

And before anything it draws, and its own pool calls back what it has lent.
"""

from scheduler_cluster import Cluster

from engine import protocol as p
from engine.memory.books import BlockState
from engine.scheduler.effects import ToPlanner, ToPool
from engine.scheduler.growth import REDRAW_S


def watched(cluster, instance):
    """What an instance does for memory, in order: each kind of step once in a row."""
    done, scheduler = [], cluster.instances[instance].scheduler
    take, preempt = scheduler.take_effects, scheduler.roster.suspend

    def stop(sequence):
        done.append("give way")
        preempt(sequence)

    def note():
        effects = take()
        for effect in effects:
            match effect:
                case ToPool(message=p.Draw()):
                    what = "host" if effect.message.host else "draw"
                case ToPlanner(message=p.BorrowQuery()):
                    what = "borrow"
                case _:
                    continue
            if done[-1:] != [what]:
                done.append(what)
        return effects

    scheduler.take_effects, scheduler.roster.suspend = note, stop
    return done


def run(cluster, answers, max_rounds=500):
    for _ in range(max_rounds):
        if all(answer.done for answer in answers):
            break
        cluster.now += 0.05 if cluster.round() else 0.5
    for answer in answers:
        assert (answer.tokens, answer.finish_reason) == answer.expected()


def test_alone_it_draws_borrows_takes_host_memory_and_gives_way_in_this_order():
    one = Cluster([6], max_step_tokens=4, grow_blocks=1)
    answers = [one.submit(0, [100 + number, 1, 2], 7) for number in range(2)]
    done = watched(one, 0)
    run(one, answers)
    first = list(dict.fromkeys(done))
    assert first == ["draw", "borrow", "host", "give way"]


def test_whoever_can_borrow_takes_no_host_memory_and_does_not_give_way():
    two = Cluster([6, 20], max_step_tokens=4, grow_blocks=1)
    answers = [two.submit(0, [100 + number, 1, 2], 7) for number in range(2)]
    done = watched(two, 0)
    run(two, answers)
    assert {*done} == {"draw", "borrow"}


def test_whoever_has_room_at_home_does_not_borrow():
    two = Cluster([12, 20], max_step_tokens=4, grow_blocks=1)
    answers = [two.submit(0, [100 + number, 1, 2], 7) for number in range(2)]
    done = watched(two, 0)
    run(two, answers)
    assert {*done} == {"draw"}


def test_whoever_called_blocks_back_waits_for_them_and_nobody_gives_way():
    """The lender's own requests grow while what it lent is on its way home."""
    two = Cluster([6, 10], max_step_tokens=4, grow_blocks=1, hand_over=False)
    guest = two.submit(0, [100, *range(1, 14)], 12)
    while not guest.tokens:
        two.round()
    lender = two.instances[1]
    assert lender.rmanager.books.count(BlockState.LENT) == 5
    answers = [two.submit(1, [100 + number, 1, 2], 5) for number in range(2)]
    run(two, [guest, *answers])
    assert lender.scheduler.loads.relief["preemptions"] == 0


def test_while_what_was_recalled_is_on_its_way_it_does_not_ask_again_at_once():
    one = Cluster([6], max_step_tokens=4, grow_blocks=1)
    one.submit(0, [100, 1, 2], 7)
    scheduler, now = one.instances[0].scheduler, 5.0
    while not scheduler.running:
        one.round()
    (sequence,) = scheduler.running
    growth, holdings = scheduler.growth, scheduler.holdings
    holdings.drawing = False
    growth.on_drawn(sequence, p.Drawn([], 0, num_recalled=2, recall_s=1.0), now)
    scheduler.take_effects()
    for later_s in (0.0, REDRAW_S / 2):
        growth.grow(sequence, now + later_s)
        assert not scheduler.take_effects()
    growth.grow(sequence, now + REDRAW_S)
    (effect,) = scheduler.take_effects()
    assert isinstance(effect.message, p.Draw)


def test_blocks_that_stay_lent_for_long_keep_nobody_from_borrowing():
    """The lender's own request would fit at home, but its blocks are not called back so soon."""
    three = Cluster([6, 20, 14], min_residence_s=30.0, max_step_tokens=16, grow_blocks=1)
    guest = three.submit(0, [100, *range(1, 14)], 20)
    while not guest.tokens:
        three.round()
    answer = three.submit(1, [50, *range(36)], 1)
    for _ in range(10):
        three.now += 1.0
        three.round()
    assert answer.done
    assert not guest.done


def test_who_works_in_few_blocks_does_not_give_way_while_they_move():
    """It found no memory, but by now moves are under way that will free some."""
    two = Cluster([4, 11], max_step_tokens=16, grow_blocks=1, hand_over=False)
    answer = two.submit(0, [100, *range(1, 23)], 1)
    scheduler = two.instances[0].scheduler
    while not scheduler.running or not scheduler.running[0].moving:
        assert not answer.done
        two.deliver_all()
        two.instances[0].step()
    (sequence,) = scheduler.running
    assert scheduler.schedule(two.now) is None
    sequence.on_host = True
    scheduler.holdings.draw(1, whom=sequence, host=True)
    scheduler.on_message(0, p.Drawn([], 0), two.now)
    assert scheduler.running == [sequence]
    run(two, [answer])
