"""Where a context lay, as a small coloured picture for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

COLORS = ("green", "blue", "magenta", "yellow", "cyan", "red", "bright_green", "bright_blue")
CELLS = 64
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class PoolUse:
    """One instance's pool while the request ran, in blocks."""

    instance: int
    num_blocks: int
    num_free: int
    num_lent: int


def color_of(instance: int) -> str:
    return COLORS[instance % len(COLORS)]


def context_bar(holders: Sequence[int]) -> Text:
    """The context from its first token to its last; each cell shows who holds it.

    A cell stands for several blocks when there are more of them than cells, and then shows the
    holder of most of them. Instances are also told apart by their digit, for people and terminals
    without colours.
    """
    bar = Text()
    num_cells = min(CELLS, len(holders))
    for cell in range(num_cells):
        inside = holders[cell * len(holders) // num_cells : (cell + 1) * len(holders) // num_cells]
        most = max(sorted(set(inside)), key=inside.count)
        bar.append(LETTERS[most % len(LETTERS)], style=f"bold white on {color_of(most)}")
    return bar


def pool_bar(use: PoolUse, width: int = 24) -> Text:
    """Used by its own step, lent, free."""
    own = use.num_blocks - use.num_free - use.num_lent
    bar = Text()
    done = 0
    for count, mark, style in (
        (own, "#", color_of(use.instance)),
        (use.num_lent, "+", "white"),
        (use.num_free, ".", "bright_black"),
    ):
        end = done + count
        cells = end * width // use.num_blocks - done * width // use.num_blocks
        bar.append(mark * cells, style=style)
        done = end
    return bar


def human(num_bytes: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def picture(
    holders: Sequence[int],
    pools: Sequence[PoolUse],
    *,
    owner: int,
    block_tokens: int,
    query_bytes: int,
    partial_bytes: int,
    moved_bytes: int,
    kv_bytes_avoided: int,
) -> RenderableType:
    """The context, the pools, and what travelled."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("instance", "of this context", "its pool: # own  + lent  . free", ""):
        table.add_column(column)
    for use in sorted(pools, key=lambda use: use.instance):
        count = sum(1 for holder in holders if holder == use.instance)
        role = " (owner)" if use.instance == owner else ""
        table.add_row(
            Text(f"{use.instance}{role}", style=color_of(use.instance)),
            f"{count:4d} blocks, {count / max(len(holders), 1):4.0%}",
            pool_bar(use),
            f"{use.num_blocks - use.num_free} of {use.num_blocks} blocks",
        )
    travelled = Text.assemble(
        "travelled as queries and partials: ",
        (f"{human(query_bytes)} + {human(partial_bytes)}", "bold"),
        f"; as sealed blocks, once: {human(moved_bytes)}\n",
        "would have travelled as KV, fetched for each step: ",
        (human(kv_bytes_avoided), "bold"),
    )
    title = f"the context, {len(holders)} rBlocks of {block_tokens} tokens, first to last:"
    return Group(Text(title, style="dim"), context_bar(holders), table, travelled)
