"""``lendkv doctor``: what is wrong is found and comes with advice, never with a traceback."""

import os
import socket
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from served import ROOT, free_ports, make_chatting_checkpoint

from engine import doctor_devices
from engine.attention import flash
from engine.config import load


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_chatting_checkpoint(tmp_path_factory.mktemp("doctor") / "model")


def examine(*overrides, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "engine", "doctor", *overrides],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        env=os.environ | {"COLUMNS": "400"} | environment,
    )
    assert "Traceback" not in done.stderr
    return done


def wrong(done):
    """What must be mended; it ends with status 1."""
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("wrong")]
    assert f"{len(lines)} of " in done.stdout.splitlines()[-1]
    return "\n".join(lines)


def test_a_machine_without_fault_is_all_fine(model):
    done = examine(f"model.path={model}", f"serve.port={free_ports(1)}", "instances=2")
    assert done.returncode == 0, done.stdout + done.stderr
    for what in ("processor", "native helper", "package torch", "model", "memory", "transport"):
        assert f" {what} " in done.stdout
    assert "all fine" in done.stdout


def test_what_a_gpu_would_need_is_told_in_sentences(model):
    done = examine(f"model.path={model}", f"serve.port={free_ports(1)}", TRITON_INTERPRET="")
    found = {
        line.split()[2] if line.split()[1] == "backend" else line.split()[1]: line
        for line in done.stdout.splitlines()
        if line.startswith(("fine", "note"))
    }
    kernels = "flash-attn's" if flash.has_package() else "PyTorch's (flash-attn is not installed)"
    assert f"kernels: {kernels}" in found["flash"]
    if torch.cuda.is_available():
        assert torch.cuda.get_device_name() in found["GPU"]
        return
    assert "finds no CUDA GPU" in found["GPU"]
    assert "the backend flash needs a CUDA GPU" in found["flash"]
    missing = find_spec("triton") is None
    assert ("needs the package triton" if missing else "needs a CUDA GPU") in found["triton"]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], "note mapped=false, and instances ask true would do here"),
        (["pool.options.mapped=true"], "fine mapped=true"),
        (["transport.name=tcp"], "note mapped=false, and instances ask transport.name=tcp maps no"),
        (["tp=2"], "note mapped=false, and instances ask tp=2 ranks have a part of a pool each"),
        (["instances=1"], ""),
    ],
)
def test_whether_instances_read_each_other_is_told(model, options, found):
    done = examine(
        f"model.path={model}",
        f"serve.port={free_ports(1)}",
        "instances=2",
        "pool.name=device",
        "pool.options.device=cpu",
        *options,
    )
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    (line, *_) = [line for line in lines if " mapped pools " in line] or [""]
    assert line.replace("mapped pools pool.options.", "").startswith(found)


def test_without_access_between_gpus_they_ask(monkeypatch):
    """Two of them, which are not there."""
    config = load(None, ["instances=2", "pool.name=device", "pool.options.device=cuda"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda own, there: own < there)
    finding = doctor_devices._mapping(config, "cuda:0")
    assert finding.advice == (
        "attention.options.local=native reads its own pool only: use triton; "
        "cuda:1 has no access to the memory of cuda:0"
    )
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda own, there: True)
    options = ["attention.options.local=triton", "pool.options.mapped=true"]
    config = load(None, ["instances=2", "pool.name=device", "pool.options.device=cuda", *options])
    finding = doctor_devices._mapping(config, "cuda:0")
    assert finding.advice == "not proved: that kernels survive a holder that is killed"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["local=tritn"], "'tritn'; known: dist"),
        (["local=flash", "local_options.near=native"], "unknown key 'near'"),
        (["local=flash"], "backend flash"),
        (["local=tiered", "local_options.near=triton"], "backend triton"),
    ],
)
def test_backends_that_cannot_be_are_wrong(model, options, found):
    if torch.cuda.is_available() and found.startswith("backend"):
        pytest.skip("they run on this machine's GPU")
    overrides = [f"attention.options.{option}" for option in options]
    done = examine(f"model.path={model}", *overrides, TRITON_INTERPRET="")
    assert found in wrong(done)


def test_a_missing_model(tmp_path):
    text = wrong(examine(f"model.path={tmp_path / 'nothing'}", f"serve.port={free_ports(1)}"))
    assert "model" in text
    assert "nothing" in text


def test_api_keys_are_counted_and_never_shown(model):
    done = examine(f"model.path={model}", "serve.api_keys=[sk-secret,sk-other name=x]")
    assert "2 are given" in done.stdout
    said = wrong(examine(f"model.path={model}", "serve.api_keys=[sk-secret speed=9]"))
    assert "'speed' is no option of a key" in said
    assert "sk-" not in done.stdout + said


def test_a_share_of_memory_that_is_too_small_is_told_with_what_is_needed(model):
    assert "nothing is left for blocks" in wrong(examine(f"model.path={model}", "pool.memory=1MiB"))


def test_a_busy_port(model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        text = wrong(examine(f"model.path={model}", f"serve.port={taken.getsockname()[1]}"))
    assert "Address already in use" in text
    assert "choose another serve.port" in text


def test_no_compiler_on_the_path(model, tmp_path):
    text = wrong(examine(f"model.path={model}", f"serve.port={free_ports(1)}", PATH=str(tmp_path)))
    assert "install one" in text
    assert "transport.name=tcp" in text


def test_nixl_with_its_package_and_without(model, tmp_path):
    options = (f"model.path={model}", f"serve.port={free_ports(1)}", "transport.name=nixl")
    done = examine(*options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nixl can listen at nixl://127.0.0.1:" in done.stdout
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['nixl_cu12'] = None")
    text = wrong(examine(*options, PYTHONPATH=str(tmp_path)))
    assert "needs the package nixl-cu12, which is not installed: pip install" in text


def test_a_transport_within_one_process(model):
    text = wrong(
        examine(f"model.path={model}", f"serve.port={free_ports(1)}", "transport.name=loopback")
    )
    assert "use shm or tcp" in text


def test_a_recipe_that_cannot_be_is_refused_before(model):
    done = examine("no-such-recipe.yaml")
    assert done.returncode == 2
    assert "no-such-recipe.yaml" in done.stderr
