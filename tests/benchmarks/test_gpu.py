"""What a person with a GPU runs, rehearsed on a CPU."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from torch.autograd import DeviceType

from MMSA_ext import mmsa_bridge
from MMSA_ext.data import synthetic

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gpu():
    import gpu

    return gpu


@pytest.fixture
def task(gpu, tmp_path):
    features = synthetic.write(tmp_path / "sims.pkl", "sims", sizes=(8, 4, 4), text_features=True)
    shared = {"device": "cpu", "quick": True, "features": str(features), "overrides": {}}
    shared["pretrained"] = gpu.write_encoder(tmp_path / "encoder", True)

    def make(model, **more):
        return shared | next(t for t in gpu.plan(True) if t["model"] == model) | more

    return make


@pytest.mark.parametrize("model", ["text_only", pytest.param("self_mm", marks=pytest.mark.slow)])
def test_steps_of_a_model_are_timed_and_counted(gpu, task, model):
    """Self-MM goes over the data once before it trains, and changes its weights every 4 batches."""
    with mmsa_bridge.registered(), mmsa_bridge.progress_bars(False):
        found = gpu.measure(task(model))
    assert 0 < found["step_s"] < found["took_s"]
    assert found["peak_mb"] > 100
    assert found["operations_step"] > 500
    assert 1e6 < found["flop_step"] < 1e10


def test_the_most_telling_settings_come_first(gpu):
    plan = gpu.plan(False)
    assert gpu.named(plan[0]) == "dashfusion mosi 32 fp32"
    names = [gpu.named(task) for task in plan]
    assert len(set(names)) == len(names)
    for part in (*gpu.MODELS, *gpu.DATASETS, *map(str, gpu.BATCH_SIZES), "bf16", "tf32"):
        assert any(f" {part} " in f" {name} " for name in names[:27]), part
    assert not any(n.startswith(("self_mm", "misa", "mult")) and "bf16" in n for n in names)
    # Of a compiled step the operations are those of the same step that was not.
    compiled = names.index("dashfusion mosi 32 bf16 compiled")
    assert names.index("dashfusion mosi 32 bf16") < compiled


def event(name, start, end, on_gpu=True, **more):
    place = DeviceType.CUDA if on_gpu else DeviceType.CPU
    return SimpleNamespace(
        name=name, device_type=place, time_range=SimpleNamespace(start=start, end=end), **more
    )


def test_kernels_waits_and_busy_time_from_a_profile(gpu):
    events = [
        event("cudaLaunchKernel", 0, 5, on_gpu=False),
        event("gemm", 10, 30),
        event("gemm", 30, 40),
        event("Memcpy HtoD (Pinned -> Device)", 50, 60),
        event("Optimizer.step#AdamW.step", 10, 60, is_user_annotation=True),
        event("cudaStreamSynchronize", 40, 50, on_gpu=False),
    ]
    found = gpu.profiled(events, steps=2)
    assert found == {"kernels_step": 1.0, "waits_step": 0.5, "busy": 0.8}
    assert gpu.profiled([], steps=2)["kernels_step"] == 0


def test_what_there_is_no_time_for_is_named(gpu, tmp_path):
    bench = gpu.Bench({"quick": True}, tmp_path / "log", time.monotonic() - 1)
    assert list(bench.rows(gpu.plan(True), 1e9)) == []
    (what, why), *_ = bench.left_out.items()
    assert what.endswith("settings from dashfusion sims 4 fp32 on")
    assert why == "the time was over"


def test_without_a_gpu_it_says_so(gpu, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit):
        gpu.parse()
    assert "sees no GPU" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_script(tmp_path):
    """Tests, rows of both trainers, and a setting that cannot be measured, which costs itself."""
    out = tmp_path / "gpu.csv"
    options = f"--device cpu --quick --minutes 6 --rows 3 --models text_only no_such --out {out}"
    done = subprocess.run(
        ["bash", "benchmarks/gpu.sh", *options.split()],
        cwd=ROOT,
        env=os.environ | {"VIRTUAL_ENV": sys.prefix},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    assert "# tests: " in text
    assert " 0 failed, 0 error" in text
    rows = pd.read_csv(io.StringIO(text), comment="#")
    assert rows["model"].tolist() == ["text_only"] * 2
    assert rows["precision"].tolist() == ["fp32", "bf16"]
    assert (rows["steps_s"] > 0).all()
    assert rows["utilisation"].between(0, 1).all()
    assert "left_out_1: no_such sims 4 fp32: " in text
    assert "text_only" in done.stdout
    assert str(out) in done.stdout
