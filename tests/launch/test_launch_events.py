"""Real processes write event logs, which come to the same state in another process."""

from command import Command
from tiny_checkpoint import PROMPT

from engine.sim.replay import replay


def test_every_machine_of_a_cluster_writes_a_log_that_replays(recipe, tmp_path):
    folder = tmp_path / "events"
    command = Command(
        "generate",
        recipe,
        f"cluster.event_log={folder}",
        "generate.compare=false",
        "generate.max_tokens=64",
        "pool.num_blocks=30",
        "--prompt",
        PROMPT,
        processes=2,
    )
    done = command.finish()
    assert done.status == 0, done.err
    names = sorted(path.name for path in folder.iterdir())
    assert [name.split(".")[0] for name in names] == ["planner", "pool0", "pool1", "step0", "step1"]
    figures = {name.split(".")[0]: replay(str(folder / name)) for name in names}
    assert {one["differs_at"] for one in figures.values()} == {None}, figures
    assert all(one["hashes"] for one in figures.values()), figures
