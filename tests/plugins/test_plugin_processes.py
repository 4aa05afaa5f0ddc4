"""Parts from outside in true processes: two instances under torchrun."""

import json
import sys
from pathlib import Path

from tiny_models import reference_tokens

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "launch"))

from command import Command  # noqa: E402
from tiny_checkpoint import PROMPT, make_tiny_checkpoint, prompt_ids  # noqa: E402


def test_own_parts_answer_together_under_torchrun(tmp_path):
    model = make_tiny_checkpoint(tmp_path / "model", max_positions=4096)
    command = Command(
        "generate",
        HERE / "example_recipe.yaml",
        "instances=2",
        f"model.path={model}",
        "model.dtype=float32",
        "pool.num_blocks=30",
        "pool.block_tokens=8",
        f"pool.options.folder={tmp_path}",
        f"transport.options.folder={tmp_path}",
        "scheduler.max_step_tokens=32",
        "attention.options.wait_s=20",
        "generate.max_tokens=16",
        "generate.ignore_eos=true",
        "--json",
        "--prompt",
        PROMPT,
        processes=2,
        PYTHONPATH=str(HERE),
    )
    done = command.finish()
    assert done.status == 0, done.err
    assert "Traceback" not in done.err
    facts = json.loads(done.out)
    assert facts["token_ids"] == reference_tokens(model, prompt_ids(), 16)
    assert facts["equal_to_single"] is True
    assert facts["kv_blocks_by_instance"]["0"] <= 8
    traces = [path.read_text() for path in tmp_path.glob("*.trace")]
    assert len(traces) == 4, "two pools and two steps"
    assert sum("to tcp:" in trace for trace in traces) == 4
