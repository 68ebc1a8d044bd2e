"""Generated data in MMSA's layout and a small model, for the tests of the bridge."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import MMSA
import numpy as np
import torch
from easydict import EasyDict
from torch import nn
from transformers import BertConfig, BertModel, BertTokenizer

from MMSA_ext import mmsa_bridge

SIZES = {"train": 16, "valid": 6, "test": 8}
LENGTHS = {"text": 6, "audio": 9, "vision": 7}
SCALE = {"mosi": 3.0, "sims": 1.0}


SMALL = {"batch_size": 4, "early_stop": 1, "update_epochs": 2, "train_samples": 16}
WIDE = 768  # MMSA's loader states this width for every text encoder
NARROW = 16


@contextmanager
def shim(name: str) -> Iterator[None]:
    """That shim alone."""
    with ExitStack() as undo:
        next(shim for shim in mmsa_bridge.SHIMS if shim.name == name).apply(undo)
        yield


def without_shim(name: str, monkeypatch: Any) -> None:
    """From now on `register` applies all shims but that one."""
    others = tuple(shim for shim in mmsa_bridge.SHIMS if shim.name != name)
    assert len(others) == len(mmsa_bridge.SHIMS) - 1
    monkeypatch.setattr("MMSA_ext.mmsa_bridge.shims.SHIMS", others)


def write_encoder(folder: Path, tiny_encoder: Path, hidden_size: int) -> Path:
    """A BERT of 1 layer whose vocabulary of 128 has more than that of `tiny_encoder`."""
    size = {"hidden_size": hidden_size, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=128, intermediate_size=8, max_position_embeddings=64, **size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    BertTokenizer(vocab=str(tiny_encoder / "vocab.txt")).save_pretrained(folder)
    return folder


def make_split(dataset: str, name: str, rng: np.random.Generator) -> dict[str, Any]:
    n = SIZES[name]
    text_length = rng.integers(3, LENGTHS["text"] + 1, n)
    mask = (np.arange(LENGTHS["text"]) < text_length[:, None]).astype(np.float32)
    ids = rng.integers(5, 64, mask.shape) * mask
    labels = np.linspace(-1, 1, n) * SCALE[dataset]
    split: dict[str, Any] = {
        "raw_text": [f"word{i}" for i in range(n)],
        "id": [f"{name}$_${i}" for i in range(n)],
        "text_bert": np.stack([ids, mask, np.zeros_like(ids)], axis=1),
        "text": rng.normal(size=(n, LENGTHS["text"], 10)).astype(np.float32),
        "audio": rng.normal(size=(n, LENGTHS["audio"], 5)).astype(np.float32),
        "vision": rng.normal(size=(n, LENGTHS["vision"], 4)).astype(np.float32),
        "audio_lengths": rng.integers(2, LENGTHS["audio"] + 1, n).tolist(),
        "vision_lengths": rng.integers(2, LENGTHS["vision"] + 1, n).tolist(),
        "regression_labels": rng.permutation(labels).astype(np.float32),
    }
    if dataset == "sims":
        for modality in "TAV":
            split[f"regression_labels_{modality}"] = rng.permutation(labels).astype(np.float32)
    return split


def write_features(path: Path, dataset: str, **changes: Any) -> Path:
    """Write 30 samples in the layout of `mosi` or `sims`."""
    rng = np.random.default_rng(0)
    content = {name: make_split(dataset, name, rng) for name in SIZES}
    for split in content.values():
        split.update(changes)
    path.write_bytes(pickle.dumps(content))
    return path


class RecordedReads(EasyDict):  # type: ignore[misc]  # EasyDict is untyped
    """A configuration that keeps which keys MMSA's own code takes out of it, in `_seen`.

    What MMSA's code has put in before, whatever was there, is not counted. EasyDict makes an item
    of every attribute of its class, so there are none but special methods.
    """

    def __getattribute__(self, name: str) -> Any:
        if name == "get":
            return partial(_recorded_get, self)
        if not name.startswith("_") and dict.__contains__(self, name):
            _note(self, name, "_seen")
        return super().__getattribute__(name)

    def __getitem__(self, name: str) -> Any:
        _note(self, name, "_seen")
        return super().__getitem__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        _note(self, name, "_written")
        super().__setattr__(name, value)

    __setitem__ = __setattr__


_MMSA = str(Path(MMSA.__file__).parent)


def _recorded_get(recorded: RecordedReads, name: str, default: Any = None) -> Any:
    _note(recorded, name, "_seen")
    return dict.get(recorded, name, default)


def _note(recorded: RecordedReads, name: str, where: str) -> None:
    """Note a key, if MMSA's code asked: not this package's, which reads the same object."""
    if sys._getframe(2).f_code.co_filename.startswith(_MMSA):
        noted = object.__getattribute__(recorded, "__dict__")
        if name not in noted.setdefault("_written", set()):
            noted.setdefault(where, set()).add(name)


class ToyModel(nn.Module):
    def __init__(self, args: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(args.feature_dims[1], 1)

    def forward(self, text: Any, audio: torch.Tensor, vision: Any) -> dict[str, torch.Tensor]:
        return {"M": self.linear(audio.mean(dim=1))}


class ToyTrainer:
    def __init__(self, args: Any) -> None:
        self.args = args

    def do_train(self, model: Any, dataloader: Any, return_epoch_results: bool = False) -> None:
        torch.save(model.state_dict(), self.args.model_save_path)

    def do_test(self, model: Any, dataloader: Any, mode: str = "VAL") -> dict[str, float]:
        with torch.no_grad():
            for batch in dataloader:
                model(batch["text"], batch["audio"], batch["vision"])
        return {"MAE": 0.5, "Loss": 0.25}


TOY_CONFIG = {
    "toy": {
        "commonParams": {"need_data_aligned": False, "early_stop": 1},
        "datasetParams": {"mosi": {"batch_size": 4}, "sims": {"batch_size": 5}},
    }
}
TOY_TUNE = {
    "toy": {**TOY_CONFIG["toy"], "debugParams": {"d_paras": ["width"], "width": [1, 2]}},
}


class ToyPackage:
    """Stands for the registry, the configuration and the runner of the package."""

    def __init__(self) -> None:
        entry = SimpleNamespace(
            build=ToyModel, trainer=ToyTrainer, paper="Toy fusion, https://example.org/toy"
        )
        self.models = {"toy": entry}

    def extension(self) -> mmsa_bridge.Extension:
        return mmsa_bridge.Extension(
            list_models=lambda: list(self.models),
            get_model=lambda name: self.models[name],
            configuration=lambda kind: TOY_TUNE if kind == "tune" else TOY_CONFIG,
            run=lambda *args, **options: ("run", args, options),
            test=lambda *args, **options: ("test", args, options),
        )


def run_python(script: str, *arguments: object) -> None:
    """Run a script in a fresh interpreter that finds this package and this module."""
    places = [Path(mmsa_bridge.__file__).parents[2], Path(__file__).parent]
    path = os.pathsep.join([*map(str, places), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        check=True,
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
    )
