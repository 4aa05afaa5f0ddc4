"""Protects promise 3 at the debtor: a borrowed block is never lent on."""

from hypothesis import given
from hypothesis import strategies as st
from returns_harness import HOME, Home

from engine.core import BlockRef

HOLDERS = st.lists(st.sampled_from([HOME, HOME, 1, 2]), min_size=1, max_size=8)


@given(holders=HOLDERS, data=st.data())
def test_only_own_sealed_leaves_can_be_lent_and_each_once(holders, data):
    own = [leaf for leaf, instance in enumerate(holders) if instance == HOME]
    targets = data.draw(st.sets(st.sampled_from(own)), label="targets") if own else set()
    home = Home()
    one = home.sequence(*holders, targets=dict.fromkeys(targets, 1))
    assert home.holdings.own_sealed(one) == [leaf for leaf in own if leaf not in targets]
    assert home.moves == {(1, leaf) for leaf in targets}


@given(holders=HOLDERS)
def test_a_lent_leaf_moves_nowhere_even_if_it_is_told_to(holders):
    home = Home()
    one = home.sequence(*holders)
    one.targets = {leaf: BlockRef(3, 90 + leaf, 30, leaf) for leaf in range(len(holders))}
    home.holdings.move_sealed(one)
    home.perform()
    assert home.moves == {(1, leaf) for leaf, at in enumerate(holders) if at == HOME}
