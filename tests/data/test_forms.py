"""A file means the same to every model, in whatever form it holds its values."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from MMSA_ext import mmsa_bridge, predict_file
from MMSA_ext.config.resolve import get_config_regression, unread
from MMSA_ext.data.features import read_features
from MMSA_ext.data.loader import FeatureLoader, make_loaders
from MMSA_ext.registry import trains_in_mmsa, unread_modalities
from MMSA_ext.runs.api import open_run
from MMSA_ext.runs.options import RunOptions
from MMSA_ext.runs.seeds import Run
from tests.conftest import make_feature_data, tiny_config, train
from tests.data.comparing import assert_same

Data = dict[str, Any]
MODELS = ("text_only", "dashfusion", "lf_dnn", "mtfn", "self_mm", "self_mm_infoenh", "mult")
SEQUENCES = ("text", "audio", "vision")
LABELS = tuple(f"regression_labels{suffix}" for suffix in ("", "_T", "_A", "_V"))
LENGTHS = ("audio_lengths", "vision_lengths")


@pytest.fixture(scope="module")
def plain() -> Data:
    """Arrays of float32 that every dtype holds exactly; vision is 0 or 1, labels are -1, 0 or 1."""
    data = make_feature_data(dataset="sims")
    generator = np.random.default_rng(0)
    for split in data.values():
        for key in ("text", "audio"):
            split[key] = np.round(split[key] * 8)
        split["audio"][..., 0] += 99 * (np.arange(12) < np.array(split["audio_lengths"])[:, None])
        split["vision"] = (split["vision"] > 0).astype(np.float32)
        split["vision"][..., 0] = np.arange(8) < np.array(split["vision_lengths"])[:, None]
        for key in LABELS:
            split[key] = generator.permutation(np.arange(len(split["id"])) % 3 - 1.0)
            split[key] = split[key].astype(np.float32)
        split["raw_text"] = split["raw_text"].tolist()
    return data


def each(keys: tuple[str, ...], change: Callable[[Any], Any]) -> Callable[[Data], None]:
    def form(data: Data) -> None:
        for split in data.values():
            for key in keys:
                split[key] = change(split[key])

    return form


def drop(keys: tuple[str, ...]) -> Callable[[Data], None]:
    return lambda data: [split.pop(key) for split in data.values() for key in keys] and None


def cells(values: Any) -> Any:
    """An array of objects (n,), each the array of a sample."""
    array = np.empty(len(values), object)
    array[:] = list(values)
    return array


def as_type(dtype: Any) -> Callable[[Any], Any]:
    return lambda values: np.asarray(values).astype(dtype)


ARRAYS = ("text_bert", *SEQUENCES)
FORMS: dict[str, Callable[[Data], None]] = {
    "lists of arrays": each((*ARRAYS, *LABELS), list),
    "tuples of arrays": each((*ARRAYS, *LABELS), tuple),
    "nested lists": each((*ARRAYS, *LABELS), np.ndarray.tolist),
    "objects that are arrays": each(ARRAYS, cells),
    "objects that are numbers": each((*ARRAYS, *LABELS), as_type(object)),
    "float64": each((*ARRAYS, *LABELS), as_type(np.float64)),
    "big-endian": each((*ARRAYS, *LABELS), as_type(">f8")),
    "float16": each((*SEQUENCES, *LABELS), as_type(np.float16)),
    "integers": each((*ARRAYS, *LABELS), as_type(np.int64)),
    "small integers": each((*SEQUENCES, *LABELS), as_type(np.int8)),
    "booleans": each(("vision",), as_type(bool)),
    "columns by rows": each((*ARRAYS, *LABELS), np.asfortranarray),
    "labels (n, 1)": each(LABELS, lambda values: values[:, None]),
    "labels (n, 1, 1)": each(LABELS, lambda values: values[:, None, None]),
    "labels of numpy": each(LABELS, lambda values: [np.float64(value) for value in values]),
    "labels in cells": each(LABELS, lambda values: cells(values[:, None])),
    "lengths (n, 1)": each(LENGTHS, lambda values: np.array(values)[:, None]),
    "lengths as floats": each(LENGTHS, as_type(np.float32)),
    "lengths as objects": each(LENGTHS, as_type(object)),
    "no lengths": drop(LENGTHS),
    "texts as array": each(("id", "raw_text"), np.array),
    "texts as objects": each(("id", "raw_text"), as_type(object)),
    "texts as bytes": each(("id", "raw_text"), lambda values: [v.encode() for v in values]),
}


def everything(data: Data) -> None:
    """Many forms at once."""
    for name in ("objects that are arrays", "labels (n, 1, 1)", "no lengths", "texts as bytes"):
        FORMS[name](data)
    each(("vision",), list)(data)


def configuration(model: str, encoder: Path) -> dict[str, Any]:
    if not trains_in_mmsa(model):
        return tiny_config(model, encoder)
    small = {"pretrained": str(encoder), "batch_size": 4, "early_stop": 0, "update_epochs": 2}
    small |= {"hidden_dims": [4, 4, 4], "text_out": 16 if model.startswith("self_mm") else 4}
    known = get_config_regression(model, "sims")
    small = {key: value for key, value in small.items() if not unread(known, [key])}
    if model == "mult":
        kernels = {f"conv1d_kernel_size_{modality}": 1 for modality in "lav"}
        return small | kernels | {"dst_feature_dim_nheads": [8, 2], "nlevels": 1}
    return small | ({"infoenh": {"k": 3, "d": 8}} if model.endswith("infoenh") else {})


def written(folder: Path, data: Data, form: Callable[[Data], None]) -> Path:
    data = copy.deepcopy(data)
    form(data)
    path = folder / "features.pkl"
    path.write_bytes(pickle.dumps(data))
    return path


def batches(run: Run) -> dict[str, list[dict[str, Any]]]:
    """All batches of a model in file order, from the loader that it is trained by."""
    features = run._seen_features
    if not trains_in_mmsa(run.args.model_name):
        loaders = make_loaders(features, 4, 4)
        return {name: list(FeatureLoader(each.split, 4)) for name, each in loaders.items()}
    args = mmsa_bridge.complete_args(run.args, device=run.device, model_save_path="unused")
    with mmsa_bridge.provided_features(features):
        stock = mmsa_bridge.stock_loaders(args)
    return {name: list(DataLoader(each.dataset, batch_size=4)) for name, each in stock.items()}


@pytest.fixture(scope="module")
def opened(
    plain: Data, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Run]]:
    """By model, a run on the plain form; another reading is put into it to see its batches."""
    folder = tmp_path_factory.mktemp("plain")
    path = written(folder, plain, lambda data: None)
    runs: dict[str, Run] = {}
    with ExitStack() as stack:

        def get(model: str) -> Run:
            if model not in runs:
                runs[model] = stack.enter_context(
                    open_run(
                        model,
                        "sims",
                        RunOptions(custom_feature=path, gpu_ids="cpu", verbose_level=0).inside(
                            folder
                        ),
                        config=configuration(model, tiny_encoder),
                    )
                )
            return runs[model]

        yield get


@pytest.mark.parametrize("model", MODELS)
def test_every_form_gives_the_same_batches(
    model: str, plain: Data, opened: Callable[[str], Run], tmp_path: Path
) -> None:
    run = opened(model)
    expected = batches(run)
    assert len(expected["train"]) == 3
    for name, form in {**FORMS, "everything": everything}.items():
        features = read_features(written(tmp_path, plain, form), "sims")
        other = run.with_overrides({})
        other.features = features.without(unread_modalities(run.args))
        assert features.report.warnings == [], name
        for split, found in batches(other).items():
            for number, (batch, plainly) in enumerate(zip(found, expected[split], strict=True)):
                assert_same(batch, plainly, f"{name}, {split} batch {number}")


@pytest.mark.parametrize("model", MODELS)
def test_what_is_called_usable_trains(
    model: str, plain: Data, tiny_encoder: Path, tmp_path: Path
) -> None:
    seeds, tables = [], []
    for name, form in {"plain": lambda data: None, "everything": everything}.items():
        folder = tmp_path / name
        folder.mkdir()
        path = written(folder, plain, form)
        seed = train(model, path, folder, "sims", config=configuration(model, tiny_encoder))
        assert not seed.diverged
        seeds.append(seed)
        tables.append(predict_file(seed.checkpoint, path, gpu_ids="cpu"))
    assert seeds[0].metrics == seeds[1].metrics
    assert tables[0].equals(tables[1])
