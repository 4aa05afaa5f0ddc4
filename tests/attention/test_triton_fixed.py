"""Fixed tables: what kernels do with them is what they do with a step's own, bit by bit."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from contexts import Context

from engine.attention.local import rows_of_nodes
from engine.attention.tree import MergeProgram, Piece, Segment
from engine.attention.triton import backend as triton_backend
from engine.attention.triton.backend import why_not
from engine.attention.triton.fixed import padded
from engine.core import BlockLayout

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
LAYOUT = BlockLayout(layers=1, kv_heads=1, head_dim=16, tokens=4, dtype="float32")
GROUP, NUM_LEAVES = 2, 11
DEVICE = torch.device("cpu" if triton_backend.is_interpreted() else "cuda")


def launch_over(memory: torch.Tensor, **tiles: int) -> Any:
    from engine.attention.triton.launch import Launch
    from engine.attention.triton.tiles import Tiles

    suited = replace(Tiles.suited(), **tiles)
    return Launch(LAYOUT, LAYOUT.kv_heads * GROUP, memory.view(-1), DEVICE, suited)


class Batch:
    """Decodes of some sequences over the same keys; ``lengths`` are how many of them each sees."""

    def __init__(self, context: Context, lengths: list[int]) -> None:
        self.num = len(lengths)
        segments = []
        for row, length in enumerate(lengths):
            leaves = tuple(range(LAYOUT.blocks_for(length)))
            addresses = tuple(context.addresses[leaf] for leaf in leaves)
            segments.append(Segment(row, 1, length - 1, leaves, addresses))
        self.piece = Piece.of(segments)
        rows = [(row, 1) for row in range(self.num)]
        self.program = MergeProgram.of(rows, rows_of_nodes(self.piece, 0))
        numbers = torch.Generator().manual_seed(sum(lengths))
        heads = LAYOUT.kv_heads * GROUP
        self.q_THD = torch.randn(self.num, heads, LAYOUT.head_dim, generator=numbers).to(DEVICE)

    def run(self, launch: Any, rows: Any, num: int) -> tuple[torch.Tensor, torch.Tensor]:
        q_THD = torch.zeros(num, *self.q_THD.shape[1:], device=DEVICE)
        q_THD[: self.num] = self.q_THD
        out, lse = torch.full_like(q_THD, torch.nan), torch.full(q_THD.shape[:2], torch.nan)
        lse = lse.to(DEVICE)
        launch.attend(self.piece, q_THD, 0, 0.25, *rows)
        launch.merge(self.program, *rows, out, lse)
        return out, lse

    def plain(self, launch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        launch.moved_on()
        rows = self.piece.num_node_rows, LAYOUT.kv_heads * GROUP
        floats = {"device": DEVICE}
        node_rows = torch.empty(*rows, LAYOUT.head_dim, **floats), torch.empty(*rows, **floats)
        return self.run(launch, node_rows, self.num)

    def fixed(self, launch: Any) -> tuple[Any, tuple[torch.Tensor, torch.Tensor]]:
        launch.moved_on()
        slots = torch.full((2, self.num), 1).numpy()
        fixed = launch.fix(self.piece, self.program, slots, self.piece.num_node_rows)
        assert fixed is not None
        rows = fixed.rows.out_RHD, fixed.rows.lse_RH
        return fixed, self.run(launch, rows, fixed.num_queries)


def context() -> Context:
    made = Context(LAYOUT, num_keys=NUM_LEAVES * LAYOUT.tokens, rows=1, group=GROUP, seed=0)
    made.memory = made.memory.to(DEVICE)
    return made


@pytest.mark.parametrize(
    ("programs", "steps"),
    [
        # nodes whole, then cut into leaves; what is left of a longer step must do nothing
        pytest.param(1, [[33, 17, 40], [20, 36, 35], [9, 4, 44]], id="whole"),
        pytest.param(1000, [[16, 33, 5], [14, 8, 36]], id="cut up"),
        pytest.param(7, [[1], [4]], id="few"),
    ],
)
def test_steps_in_fixed_tables_have_the_bits_of_others(
    programs: int, steps: list[list[int]]
) -> None:
    keys = context()
    launch = launch_over(keys.memory, programs=programs)
    for lengths in steps:
        batch = Batch(keys, lengths)
        fixed, (out, lse) = batch.fixed(launch)
        assert fixed.num_queries == padded(len(lengths))
        want_out, want_lse = batch.plain(launch)
        assert torch.equal(out[: batch.num], want_out)
        assert torch.equal(lse[: batch.num], want_lse)
        assert not out[batch.num :].any()
        assert (lse[batch.num :] == -torch.inf).all()


def test_launches_are_the_same_for_steps_of_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grids, numbers, and where tables are: all that a graph keeps."""
    from engine.attention.triton import launch as module

    seen: list[Any] = []

    class Spy:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: Any) -> Any:
            def run(*args: Any, **constants: Any) -> None:
                at = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in args]
                # queries, scratch and what is finished are allocated in each step
                kept = at[1:7] + at[9:] if len(args) == 11 else at[2:5]
                seen.append((grid, kept, sorted(constants.items())))
                self.kernel[grid](*args, **constants)

            return run

    monkeypatch.setattr(module, "attend_kernel", Spy(module.attend_kernel))
    monkeypatch.setattr(module, "merge_kernel", Spy(module.merge_kernel))
    keys = context()
    launch = launch_over(keys.memory)
    found = []
    for lengths in ([35, 17, 44], [36, 20, 41], [44, 40, 40]):
        seen.clear()
        fixed, _ = Batch(keys, lengths).fixed(launch)
        found.append((fixed, list(seen)))
    assert len({fixed for fixed, _ in found}) == 1
    assert found[0][1] == found[1][1] == found[2][1]
    other, _ = Batch(keys, [3]).fixed(launch)
    assert other is not found[0][0]


def test_the_same_piece_again_has_later_positions() -> None:
    keys = context()
    launch = launch_over(keys.memory)
    batch = Batch(keys, [34, 9])
    batch.fixed(launch)
    batch.piece.segments_S6[:, 2] += 1
    _, (out, _) = batch.fixed(launch)
    assert torch.equal(out[:2], batch.plain(launch_over(keys.memory))[0])


def test_rows_without_a_slot_are_not_written() -> None:
    keys = context()
    launch = launch_over(keys.memory)
    before = keys.memory.clone()
    rows = torch.ones(2, LAYOUT.kv_heads, LAYOUT.head_dim, device=DEVICE)
    launch.write(rows, rows, torch.full((2, 2), -1, device=DEVICE), 0)
    assert torch.equal(keys.memory, before)


def test_few_sizes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.attention.triton import launch as module

    monkeypatch.setattr(module, "MOST_FIXED", 2)
    keys = context()
    launch = launch_over(keys.memory)
    first, second, third = (Batch(keys, [length]) for length in (4, 16, 40))
    one = first.fixed(launch)[0]
    second.fixed(launch)
    assert first.fixed(launch)[0] is one
    third.fixed(launch)
    assert first.fixed(launch)[0] is one
    assert len(launch._kept) == 2


def test_steps_are_filled_up_to_few_sizes() -> None:
    assert [padded(n) for n in (1, 2, 3, 5, 9, 16, 17, 33)] == [1, 2, 4, 8, 16, 16, 32, 48]
