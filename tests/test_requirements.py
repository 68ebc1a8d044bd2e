"""What a model cannot be trained on is refused, with the file, the reason and a way out."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from MMSA_ext import MMSA_run
from MMSA_ext.config import get_config_regression
from MMSA_ext.data.corruption import CorruptionConfig
from MMSA_ext.data.features import FeatureSet, read_features
from MMSA_ext.errors import ConfigError
from MMSA_ext.requirements import check


@pytest.fixture
def features(feature_file) -> FeatureSet:
    return read_features(feature_file, "mosi")


@pytest.fixture
def without_vision(feature_data, tmp_path) -> FeatureSet:
    """Vision is a single zero frame."""
    for split in feature_data.values():
        split["vision"] = np.zeros((len(split["id"]), 1, 4), np.float32)
        split["vision_lengths"] = [1] * len(split["id"])
    path = tmp_path / "without_vision.pkl"
    path.write_bytes(pickle.dumps(feature_data))
    return read_features(path, "mosi")


def configuration(model: str, **more) -> dict:
    return {"model_name": model, "use_bert": True} | more


def refusal(*arguments) -> str:
    with pytest.raises(ConfigError) as error:
        check(*arguments)
    return str(error.value)


class TestCorruption:
    def test_noise_on_token_ids_by_name(self, features):
        noise = CorruptionConfig(noise=1, modalities=("text", "audio"))
        assert "token ids" in refusal(configuration("dashfusion"), features, noise)
        check(configuration("dashfusion", use_bert=False), features, noise)
        check(configuration("dashfusion"), features, CorruptionConfig(noise=1))

    def test_a_model_with_missing_data_of_its_own(self, features):
        args = get_config_regression("tfr_net", "mosi")
        assert "missing_rate" in refusal(args, features, CorruptionConfig(noise=1))
        check(args, features)

    @pytest.mark.parametrize("model", ["mmim", "mmim_infoenh"])
    def test_mmim_without_a_modality_in_training(self, features, model):
        gone = CorruptionConfig(remove=("vision",), at="all")
        said = refusal(configuration(model), features, gone)
        assert "vision removed" in said
        assert "at='test'" in said
        check(configuration(model), features, CorruptionConfig(remove=("vision",)))
        check(configuration(model), features, CorruptionConfig(remove=("text",), at="all"))
        check(configuration("self_mm"), features, gone)

    def test_every_reason_is_named(self, without_vision):
        gone = CorruptionConfig(remove=("audio",), at="all", noise=1, modalities=("text",))
        said = refusal(configuration("mmim"), without_vision, gone)
        assert [line.split(":")[0].strip() for line in said.splitlines()] == [
            "mmim cannot be run so", "corruption", "corruption", str(without_vision.path)
        ]  # fmt: skip


class TestFiles:
    @pytest.mark.parametrize("model", ["misa", "misa_infoenh", "mmim", "mmim_infoenh"])
    def test_one_without_vision(self, without_vision, model):
        said = refusal(configuration(model), without_vision)
        assert said.startswith(f"{model} cannot")
        assert f"{without_vision.path}: vision" in said
        check(configuration("self_mm"), without_vision)
        check(configuration(model), replace(without_vision, splits={}))

    def test_misa_is_told_once_for_each_modality(self, without_vision):
        said = refusal(configuration("misa"), without_vision).splitlines()
        assert len(said) == 2  # audio is long enough
        assert "train has 1 for 10, valid has 1 for 10, test has 1 for 10" in said[1]
        assert "zeros to 10 frames" in said[1]

    def test_misa_is_told_of_the_splits_that_are_too_short_alone(self, without_vision):
        test = replace(without_vision.splits["test"], vision=np.zeros((6, 10, 4), np.float32))
        features = replace(without_vision, splits=without_vision.splits | {"test": test})
        assert "(train has 1 for 10, valid has 1 for 10);" in refusal(
            configuration("misa"), features
        )

    def test_misa_with_frame_lengths_of_their_own_takes_it(self, without_vision):
        check(configuration("misa_infoenh", frame_lengths="own"), without_vision)

    def test_mmim_needs_samples_that_differ_in_training_alone(self, features):
        def constant(name):
            split = features.splits[name]
            same = np.repeat(split.audio[:1], len(split.audio), axis=0)
            return replace(features, splits=features.splits | {name: replace(split, audio=same)})

        assert "audio is the same" in refusal(configuration("mmim"), constant("train"))
        check(configuration("mmim"), constant("test"))

    def test_the_real_one_without_vision(self, real_data):
        features = read_features(real_data / "mosi_text_audio.pkl", "mosi")
        for model in ("misa", "mmim"):
            assert "vision" in refusal(configuration(model), features)

    def test_a_complete_one_is_not_refused(self, features):
        padding = ((0, 0), (0, 4), (0, 0))
        splits = {
            name: replace(split, vision=np.pad(split.vision, padding))
            for name, split in features.splits.items()
        }
        for model in ("misa", "mmim"):
            check(configuration(model), replace(features, splits=splits))


def test_a_run_is_refused_before_anything_is_trained(tmp_path, feature_file):
    folders = ("model_save_dir", "res_save_dir", "log_dir")
    with pytest.raises(ConfigError, match="mmim cannot"):
        MMSA_run(
            "mmim",
            "mosi",
            config={"corruption": {"remove": ["audio"], "at": "all"}},
            seeds=[1],
            custom_feature=feature_file,
            gpu_ids="cpu",
            num_workers=0,
            verbose_level=0,
            **dict.fromkeys(folders, tmp_path / "out"),
        )
    assert not list(tmp_path.glob("out/**/*.json"))
