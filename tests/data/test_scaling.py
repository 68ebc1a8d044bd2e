"""Feature scaling: what is computed, who reads it, and that nothing is seen without it."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from MMSA_ext import predict_file
from MMSA_ext.data import feature_cache
from MMSA_ext.data.features import read_features
from MMSA_ext.data.loader import make_loaders
from MMSA_ext.data.scaling import FeatureScaling, ModalityScaling
from MMSA_ext.errors import CheckpointError, ConfigError, FeatureFileError
from MMSA_ext.training.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import TINY_SHAPES, tiny_config, train

LENGTHS = np.array([3, 1, 4])


@pytest.fixture
def frames():
    values = np.random.default_rng(0).normal([0, 500, -1e-4], [1, 30, 1e-6], (3, 4, 3))
    values[np.arange(4) >= LENGTHS[:, None]] = 0
    return values.astype(np.float32)


def test_each_feature_has_mean_0_and_deviation_1_over_the_valid_frames(frames):
    scaled = ModalityScaling.of(frames, LENGTHS).apply(frames, LENGTHS)
    valid = np.arange(4) < LENGTHS[:, None]
    np.testing.assert_allclose(scaled[valid].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled[valid].std(axis=0), 1, rtol=1e-4)
    assert not scaled[~valid].any()
    assert scaled.dtype == np.float32
    assert frames[0, 0, 1] > 300  # a copy was scaled


def test_blocks_change_nothing():
    values = np.random.default_rng(0).normal(7, 3, (300, 40, 90)).astype(np.float16)  # two blocks
    lengths = np.random.default_rng(1).integers(1, 41, 300)
    found = ModalityScaling.of(values, lengths)
    whole = StandardScaler().fit(values[np.arange(40) < lengths[:, None]].astype(np.float64))
    np.testing.assert_allclose(found.mean, whole.mean_, rtol=1e-12)
    np.testing.assert_allclose(found.deviation, whole.scale_, rtol=1e-12)


@pytest.mark.parametrize("constant", [0.0, 1.0, 1e6 / 3, -1e-30])
def test_a_constant_feature_becomes_0_whatever_comes_later(constant):
    values = np.full((50, 9, 2), constant, np.float32)
    values[..., 1] = np.arange(9)
    lengths = np.full(50, 9)
    found = ModalityScaling.of(values, lengths)
    assert found.deviation[0] == 0
    assert not found.apply(values + 5, lengths)[..., 0].any()


def test_what_is_constant_but_for_the_files_rounding_is_constant():
    values = np.full((40, 5, 3), 0.1, np.float32)
    values[0, 0, 0] = np.nextafter(np.float32(0.1), np.float32(1))
    values[:, :, 1] = np.linspace(1e-45, 1e-40, 5)  # less than float32 computes with
    values[:, :, 2] = np.arange(5)
    lengths = np.full(40, 5)
    found = ModalityScaling.of(values, lengths)
    assert (found.deviation > 0).tolist() == [False, False, True]
    assert np.abs(found.apply(values + np.float32(0.001), lengths)).max() < 10


def test_a_mean_beyond_what_float32_resolves_is_taken_off_first():
    values = np.random.default_rng(0).normal(1.6e9, 1, (50, 4, 2))
    lengths = np.full(50, 4)
    scaled = ModalityScaling.of(values, lengths).apply(values, lengths)
    np.testing.assert_allclose(scaled.std(axis=(0, 1)), 1, rtol=1e-3)


def test_batches_are_those_of_a_scaled_copy(feature_file):
    features = read_features(feature_file, "mosi")
    scaling = features.fit_scaling()
    lazily = make_loaders(features.with_scaling(scaling), 5, 5)
    at_once = make_loaders(features.scaled(scaling), 5, 5)
    plain = make_loaders(features, 5, 5)
    for split in lazily:
        rows = torch.arange(5)
        batch, copied, raw = (
            loaders[split].split.batch(rows) for loaders in (lazily, at_once, plain)
        )
        for key in ("audio", "vision"):
            assert torch.equal(batch[key], copied[key])
            assert not torch.equal(batch[key], raw[key])
            assert not batch[key][~batch[f"{key}_mask"]].any()
    assert lazily["train"].split.audio is features.splits["train"].audio  # not a copy


def test_an_absent_modality_is_of_no_features(feature_file):
    features = read_features(feature_file, "mosi").without(["vision"])
    found = features.fit_scaling()
    assert found.vision.mean.shape == found.vision.deviation.shape == (0,)
    again = FeatureScaling.from_plain(json.loads(json.dumps(found.plain())), "f")
    again.check_widths([0, 5, 0], "f")
    assert features.scaled(again).splits["test"].vision.shape == (6, 1, 0)
    batch = features.with_scaling(again).splits["test"].batch(torch.arange(2))
    assert batch["vision"].shape == (2, 1, 0)
    assert found.without(["audio"]).audio.mean.shape == (0,)


def test_plain_and_back_is_exact(feature_file):
    scaling = read_features(feature_file, "mosi").fit_scaling()
    again = FeatureScaling.from_plain(json.loads(json.dumps(scaling.plain())), "x")
    for modality in ("audio", "vision"):
        for name in ("mean", "deviation"):
            found, kept = (getattr(getattr(s, modality), name) for s in (again, scaling))
            np.testing.assert_array_equal(found, kept)


@pytest.mark.parametrize(
    "wrong",
    [
        None, [], {}, {"audio": {}}, {"audio": {"mean": [1.0], "deviation": [1.0]}},
        {m: {"mean": [1.0], "deviation": [-1.0]} for m in ("audio", "vision")},
        {m: {"mean": [1.0, 2.0], "deviation": [1.0]} for m in ("audio", "vision")},
        {m: {"mean": ["a"], "deviation": [1.0]} for m in ("audio", "vision")},
        {m: {"mean": [float("nan")], "deviation": [1.0]} for m in ("audio", "vision")},
        {m: {"mean": [[1.0]], "deviation": [[1.0]]} for m in ("audio", "vision")},
        {m: {"mean": [1e300], "deviation": [1.0]} for m in ("audio", "vision")},
        {m: {"mean": [0.0], "deviation": [1e-300]} for m in ("audio", "vision")},
    ],
    ids=str,
)  # fmt: skip
def test_anything_else_is_refused(wrong):
    with pytest.raises(CheckpointError, match=r"here\.pth: its feature scaling cannot be used"):
        FeatureScaling.from_plain(wrong, "here.pth")


class TestCache:
    """What is kept beside a cached file."""

    @pytest.fixture
    def kept(self, tmp_path, monkeypatch, feature_file):
        monkeypatch.setenv(feature_cache.VARIABLE, str(tmp_path / "cache"))
        monkeypatch.setattr(feature_cache, "_SMALLEST_BYTES", 1)
        monkeypatch.setattr(feature_cache, "_settled", lambda status: True)
        read_features(feature_file, "mosi")
        features = read_features(feature_file, "mosi")
        self.first = features.fit_scaling().plain()
        (path,) = (tmp_path / "cache" / "feature_maps").glob("*.scaling")
        return features, path

    def test_is_computed_once(self, kept, monkeypatch):
        features, _ = kept
        monkeypatch.setattr(FeatureScaling, "of", None)
        assert features.fit_scaling().plain() == self.first

    @pytest.mark.parametrize("damage", [b"", b"\xff", b"[1]", b'["a", "b", "c"]'])
    def test_damage_is_found(self, kept, damage):
        features, path = kept
        path.write_bytes(damage)
        assert features.fit_scaling().plain() == self.first

    @pytest.mark.parametrize("strange", [True, False])
    def test_a_changed_number_and_a_strangers_value_are_found(self, kept, strange):
        features, path = kept
        about, value, digest = json.loads(path.read_text())
        if strange:
            value, digest = {}, feature_cache._value_digest({})
        else:
            value["audio"]["mean"][0] += 1
        path.write_text(json.dumps([about, value, digest]))
        assert features.fit_scaling().plain() == self.first

    def test_other_lengths_are_another_scaling(self, kept):
        features, _ = kept
        train = features.splits["train"]
        shorter = replace(train, audio_lengths=np.ones_like(train.audio_lengths))
        other = replace(features, splits=features.splits | {"train": shorter})
        assert other.fit_scaling().plain() != self.first

    def test_is_cleared_with_the_file_and_without(self, kept):
        _, path = kept
        alone = path.with_name("0.scaling")
        alone.write_bytes(path.read_bytes())
        feature_cache.clear()
        assert not path.exists()
        assert not alone.exists()


@pytest.fixture
def run(tmp_path, tiny_encoder, feature_file):
    def start(model="dashfusion", **config):
        if model == "lf_dnn":
            config = {"early_stop": 1} | config
        else:
            config = tiny_config(model, tiny_encoder, num_epochs=1) | config
        return train(model, feature_file, tmp_path / "out", config=config)

    return start


def configured(result):
    return result.record.identity.configuration


def test_own_models_scale_by_default_and_others_do_not(run):
    assert configured(run())["feature_scaling"] == "standardise"
    assert configured(run("dashfusion_released"))["feature_scaling"] == "none"
    plain = run("lf_dnn")
    assert "feature_scaling" not in configured(plain)
    assert run("lf_dnn", feature_scaling="none").record_path == plain.record_path


@pytest.mark.parametrize("model", ["dashfusion", "lf_dnn"])
def test_prediction_scales_by_the_training_split(run, model, feature_file, tmp_path):
    result = run(model, feature_scaling="standardise")
    assert configured(result)["feature_scaling"] == "standardise"
    scored = predict_file(result.checkpoint, feature_file, gpu_ids="cpu")
    data = pickle.loads(feature_file.read_bytes())
    alone = {"test": data["test"]}  # no training split to scale by
    (tmp_path / "alone.pkl").write_bytes(pickle.dumps(alone))
    again = predict_file(result.checkpoint, tmp_path / "alone.pkl", gpu_ids="cpu")
    mae = (again.prediction - again.label).abs().mean()
    assert mae == pytest.approx(result.metrics["MAE"], abs=1e-4)
    test = scored[scored.split == "test"].prediction.to_numpy()
    np.testing.assert_allclose(test, again.prediction, rtol=1e-4, atol=1e-5)
    raw = predict_file(
        result.checkpoint, feature_file, gpu_ids="cpu", overrides={"feature_scaling": "none"}
    )
    assert not np.allclose(raw.prediction, scored.prediction)


@pytest.mark.parametrize("model", ["dashfusion", "lf_dnn"])
def test_units_change_nothing_that_a_scaled_model_sees(run, model, feature_file):
    first = run(model, feature_scaling="standardise")
    data = pickle.loads(feature_file.read_bytes())
    for split in data.values():
        for key in ("audio", "vision"):
            split[key] = split[key] * 256  # exact in float32
    feature_file.write_bytes(pickle.dumps(data))
    second = run(model, feature_scaling="standardise")
    assert second.record_path != first.record_path
    for key, value in first.metrics.items():
        assert second.metrics[key] == pytest.approx(value, abs=1e-4), key
    assert run(model, feature_scaling="none").metrics != second.metrics


@pytest.mark.parametrize("model", ["dashfusion", "lf_dnn"])
def test_a_removed_modality_is_zeros_to_the_model(run, model, monkeypatch):
    from MMSA_ext.runs.seeds import Run

    seen = []
    monkeypatch.setattr(Run, "_train", lambda self, *_: seen.append(self._seen_features) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(model, feature_scaling="standardise", corruption={"remove": ["audio"], "at": "all"})
    for split in seen[0].splits.values():
        assert split.scaling is None  # nor are the zeros scaled later
        assert not split.audio.any()
        assert abs(split.vision.std() - 1) < 0.5


def test_a_checkpoint_without_its_scaling_is_refused(run, feature_file, tmp_path):
    checkpoint = load_checkpoint(run().checkpoint)
    for plain, told in (
        (None, "lacks the means and deviations"),
        ({m: {"mean": [0.0], "deviation": [1.0]} for m in ("audio", "vision")}, "scales"),
    ):
        save_checkpoint(tmp_path / "other.pth", replace(checkpoint, scaling=plain))
        with pytest.raises(CheckpointError, match=told):
            predict_file(tmp_path / "other.pth", feature_file, gpu_ids="cpu")


def test_predictions_that_are_no_numbers_are_refused(run, feature_file, tmp_path):
    checkpoint = load_checkpoint(run().checkpoint)
    tiny = {
        m: {"mean": [3e38] * len(part["mean"]), "deviation": [1.2e-38] * len(part["mean"])}
        for m, part in checkpoint.scaling.items()
    }
    save_checkpoint(tmp_path / "other.pth", replace(checkpoint, scaling=tiny))
    with pytest.raises(FeatureFileError, match=r"not a finite number, first of 'train"):
        predict_file(tmp_path / "other.pth", feature_file, gpu_ids="cpu")


@pytest.mark.parametrize("model", ["dashfusion", "lf_dnn", "lf_dnn_infoenh"])
@pytest.mark.parametrize("wrong", ["standardize", None, True, 3])
def test_other_values_are_refused_by_name(run, model, wrong):
    with pytest.raises(ConfigError, match="feature_scaling"):
        run(model, feature_scaling=wrong)


def test_mmsas_own_loop_around_our_trainer_scales_too(tmp_path, tiny_encoder, feature_file):
    from MMSA_ext import mmsa_bridge
    from MMSA_ext.config.resolve import resolve
    from MMSA_ext.training.trainer import Trainer

    def scores(scaled_by_hand):
        overrides = tiny_config("dashfusion", tiny_encoder, **TINY_SHAPES)
        overrides["featurePath"] = str(feature_file)
        args = mmsa_bridge.complete_args(
            resolve("dashfusion", "mosi", "", overrides),
            device=torch.device("cpu"), model_save_path=tmp_path / "w.pth",
        )  # fmt: skip
        features = read_features(feature_file, "mosi")
        mmsa_bridge.setup_seed(0)
        model = mmsa_bridge.build_model(args)
        if scaled_by_hand:
            scaling = features.fit_scaling()
            loaders = make_loaders(features.with_scaling(scaling), args.batch_size, 4)
        else:
            loaders = mmsa_bridge.stock_loaders(args)
            del args["feature_scaling"]  # MMSA's runner reads the bare file, which lacks it
        mmsa_bridge.setup_seed(1)
        trainer = Trainer(args)
        trainer.do_train(model, loaders)
        return trainer.do_test(model, loaders["test"])

    assert scores(scaled_by_hand=False) == pytest.approx(scores(scaled_by_hand=True), abs=1e-5)
