"""All models of MMSA, tiny, through `MMSA_run`: one epoch, its record, and its checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmsa_toys import RecordedReads

from MMSA_ext import MMSA_run, mmsa_bridge, mmsa_files, predict_file
from MMSA_ext.config.files import supported_datasets
from MMSA_ext.config.mmsa_keys import OPTIONS, own_keys
from MMSA_ext.config.resolve import get_config_regression, unread
from MMSA_ext.explain.verification import verify_store
from MMSA_ext.records.store import RunStore
from MMSA_ext.registry import host_of, list_models, trains_in_mmsa

# What makes a model small, and what the file of the tests (6 tokens, 9 and 7 frames) needs.
SMALL_TENSORS = {"hidden_dims": [4, 4, 4]}
CONFIG: dict[str, dict[str, Any]] = {
    "mctn": {"need_data_aligned": False, "max_seq_len": 6},
    "mlf_dnn": SMALL_TENSORS | {"text_out": 4},
    "mlmf": SMALL_TENSORS | {"rank": 2},
    "mmim": {"batch_size": 8},
    "mtfn": SMALL_TENSORS | {"text_out": 4},
    "mult": {"dst_feature_dim_nheads": [8, 2], "nlevels": 1, "conv1d_kernel_size_v": 1},
    "tfn": SMALL_TENSORS | {"text_out": 4},
    "tfr_net": {"dst_feature_dim_nheads": [6, 2], "nlevels": 1, "fusion_gru_layers": 1},
}
# MCTN attends over the samples of a batch, so that a prediction depends on the others in it.
DEPEND_ON_THE_BATCH = {"mctn"}

CASES = [(model, d) for model in mmsa_files.models() for d in ("mosi", "sims")]


def run(model: str, dataset: str, path: Path, encoder: Path, folder: Path, **config: Any) -> Any:
    small: dict[str, Any] = {"num_epochs": 1, "batch_size": 4}
    read = get_config_regression(model, dataset)
    if not unread(read, ["pretrained"]):
        small["pretrained"] = str(encoder)
    if not unread(read, ["update_epochs"]):
        small["update_epochs"] = 2
    folders: dict[str, Any] = dict.fromkeys(("model_save_dir", "res_save_dir", "log_dir"), folder)
    return MMSA_run(
        model,
        dataset,
        config=small | CONFIG.get(model, {}) | config,
        seeds=[1],
        custom_feature=path,
        gpu_ids="cpu",
        num_workers=0,
        verbose_level=0,
        **folders,
    )


@pytest.fixture
def recorded_reads(monkeypatch: pytest.MonkeyPatch) -> list[RecordedReads]:
    """What MMSA's code read of the configuration of each seed that was run."""
    made: list[RecordedReads] = []
    complete = mmsa_bridge.complete_args

    def recorded(*args: Any, **options: Any) -> RecordedReads:
        made.append(RecordedReads(complete(*args, **options)))
        return made[-1]

    monkeypatch.setattr(mmsa_bridge, "complete_args", recorded)
    return made


def check_that_reads_are_found(
    model: str, reads: RecordedReads, configuration: dict[str, Any]
) -> None:
    found = mmsa_bridge.keys_read(host_of(model), configuration)
    own = reads._seen - own_keys(model) - set(OPTIONS)
    assert len(own) > 15  # the recording works
    assert own <= set(found.names), "read, and not found in the sources"
    if model == host_of(model):  # a variant replaces parts of its host
        # And little more than that: parts of a model that this configuration does not use.
        assert len(set(found.names) - own) <= 8, set(found.names) - own
    assert {"seeds", "num_epochs", "num_classes"}.isdisjoint(found.names)


@pytest.mark.slow
@pytest.mark.parametrize("model", [name for name in list_models() if trains_in_mmsa(name)])
def test_variants_read_no_more_of_their_hosts_keys(
    model: str,
    features: Callable[[str], Path],
    tiny_encoder: Path,
    tmp_path: Path,
    recorded_reads: list[RecordedReads],
) -> None:
    kernels = {f"conv1d_kernel_size_{letter}": 1 for letter in "lav"} if "mult" in model else {}
    small = CONFIG.get(host_of(model), {}) | kernels | {"infoenh": {"k": 2, "d": 4}}
    results = run(model, "mosi", features("mosi"), tiny_encoder, tmp_path, **small)
    configuration = results.seeds[0].record.identity.configuration
    check_that_reads_are_found(model, recorded_reads[0], configuration)


@pytest.mark.parametrize(
    ("model", "dataset"),
    [case for case in CASES if case[1] in supported_datasets(case[0])],
)
def test_one_epoch_its_record_and_its_checkpoint(
    model: str,
    dataset: str,
    features: Callable[[str], Path],
    tiny_encoder: Path,
    tmp_path: Path,
    recorded_reads: list[RecordedReads],
) -> None:
    path = features(dataset)
    results = run(model, dataset, path, tiny_encoder, tmp_path)
    (seed,) = results.seeds
    check_that_reads_are_found(model, recorded_reads[0], seed.record.identity.configuration)
    assert not seed.diverged
    assert len(seed.record.history) == 1  # by the cap: its patience is MMSA's
    assert f"patience {get_config_regression(model, dataset).early_stop}, at most 1 epoch" in (
        seed.record.selection
    )
    expected = mmsa_bridge.metrics(dataset)(torch.tensor([1.0, -1.0]), torch.tensor([1.0, -1.0]))
    assert list(seed.metrics) == [*expected, "Loss"]
    store = RunStore(tmp_path / "runs")
    (check,) = verify_store(store)
    assert check.status in ("equal", "rounded")
    stored = store.predictions(seed.record)
    again = predict_file(seed.checkpoint, path, gpu_ids="cpu")
    assert list(again["id"]) == list(stored["id"])
    if model not in DEPEND_ON_THE_BATCH:
        np.testing.assert_allclose(again["prediction"], stored["prediction"], atol=1e-5)


def test_the_whole_of_mmsa_is_covered() -> None:
    assert len(mmsa_files.models()) == 17
    assert CONFIG.keys() <= set(mmsa_files.models())


@pytest.mark.parametrize("model", ["lf_dnn", "mult", "ef_lstm"])
def test_same_seed_same_predictions(
    model: str, features: Callable[[str], Path], tiny_encoder: Path, tmp_path: Path
) -> None:
    stored = []
    for place in ("a", "b"):
        results = run(model, "mosi", features("mosi"), tiny_encoder, tmp_path / place)
        store = RunStore(tmp_path / place / "runs")
        stored.append(store.predictions(results.seeds[0].record))
    assert stored[0].equals(stored[1])


def test_every_configuration_of_mmsa_can_be_had() -> None:
    for model, dataset in CASES:
        if dataset in supported_datasets(model):
            assert get_config_regression(model, dataset).model_name == model
