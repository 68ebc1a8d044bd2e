"""What a model cannot be trained on is refused, with the file, the reason and a way out."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from MMSA_ext.config.resolve import get_config_regression
from MMSA_ext.data.corruption import CorruptionConfig
from MMSA_ext.data.features import FeatureSet, read_features
from MMSA_ext.errors import ConfigError
from MMSA_ext.runs.requirements import check
from tests.conftest import train


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
    return {"model_name": model, "dataset_name": "mosi", "use_bert": True} | more


def refusal(*arguments) -> str:
    with pytest.raises(ConfigError) as error:
        check(*arguments)
    return str(error.value)


class TestAbsent:
    """What MMSA's own models and variants of them read is all three."""

    @pytest.mark.parametrize("model", ["dashfusion", "almt_released", "lf_dnn", "misa_infoenh"])
    def test_a_modality_that_is_read_is_named_with_the_mend(self, features, model):
        args = get_config_regression(model, "mosi") | {"train_samples": 12}
        said = refusal(args, features.without(["vision"]))
        assert said.startswith(f"{features.path}: has no vision, which {model} reads; run a model")
        assert "no audio and no vision" in refusal(args, features.without(["audio", "vision"]))
        assert "encode-text" in refusal(args, features.without(["text"]))

    def test_text_only_reads_text_alone(self, features):
        args = get_config_regression("text_only", "mosi") | {"train_samples": 12}
        check(args, features.without(["audio", "vision"]))
        assert "has no text, which text_only reads" in refusal(args, features.without(["text"]))


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


class TestLastBatchOfOne:
    """12 training samples."""

    @pytest.mark.parametrize(
        "model", ["lf_dnn", "lf_dnn_infoenh", "tfn", "lmf", "mlf_dnn", "mtfn", "mlmf", "mmim"]
    )
    def test_models_that_need_two(self, features, model):
        more = {"use_bert": False}
        for split in features.splits.values():
            split.labels.update(dict.fromkeys("TAV", split.labels["M"]))
        said = refusal(configuration(model, batch_size=11, **more), features)
        assert "12 training samples in batches of 11 leave a batch of one" in said
        assert "batch_size': 12" in said
        check(configuration(model, batch_size=12, **more), features)
        check(configuration(model, batch_size=5, **more), features)

    def test_also_where_the_arrays_are_gone(self, features):
        """As in a search, which shares what was read."""
        without = replace(features, splits={})
        assert "batch of one" in refusal(
            configuration("lf_dnn", batch_size=11, use_bert=False), without
        )

    def test_the_mend_is_one(self, features):
        assert "batch_size': 2}" in refusal(
            configuration("lf_dnn", batch_size=1, use_bert=False), features
        )

    @pytest.mark.parametrize("model", ["ef_lstm", "self_mm", "misa", "text_only"])
    def test_others_take_it(self, features, model):
        more = {"frame_lengths": "own", "use_bert": False}
        check(configuration(model, batch_size=11, **more), features)


class TestLengths:
    """10 tokens, 12 audio and 8 vision frames."""

    def test_mctn_reads_aligned_data(self, features):
        args = configuration("mctn", use_bert=False, need_data_aligned=True, max_seq_len=8)
        said = refusal(args, features)
        assert f"{features.path}: is not aligned (audio 12, text 10, vision 8 steps)" in said
        assert "need_data_aligned': False" in said
        check(args | {"need_data_aligned": False}, features)
        said = refusal(args | {"need_data_aligned": False, "max_seq_len": 50}, features)
        assert "'max_seq_len': 8" in said

    def test_an_aligned_file_is_taken(self, feature_data, tmp_path):
        for split in feature_data.values():
            split["audio"] = split["audio"][:, :10]
            split["vision"] = np.pad(split["vision"], ((0, 0), (0, 2), (0, 0)))
            split["audio_lengths"] = split["vision_lengths"] = [1] * len(split["id"])
        path = tmp_path / "aligned.pkl"
        path.write_bytes(pickle.dumps(feature_data))
        args = configuration("mctn", use_bert=False, need_data_aligned=True, max_seq_len=50)
        check(args, read_features(path, "mosi"))

    def test_mult_needs_the_length_of_its_kernels(self, features, without_vision):
        kernels = {f"conv1d_kernel_size_{m}": 5 for m in "lav"}
        args = configuration("mult", use_bert=False, **kernels)
        check(args, features)
        said = refusal(args, without_vision)
        assert "vision is 1 long, below conv1d_kernel_size_v=5" in said
        assert "config={'conv1d_kernel_size_v': 1}" in said
        check(args | {"model_name": "mult_infoenh", "infoenh": {"k": 8}}, without_vision)
        check(args | {"conv1d_kernel_size_v": 1}, without_vision)


class TestEncoder:
    def test_tokens_of_another_vocabulary(self, features, tiny_encoder, tmp_path):
        args = configuration("self_mm", pretrained=str(tiny_encoder))
        check(args, features)
        split = features.splits["train"]
        tokens = split.text_bert.copy()
        tokens[0, 0, 1] = 64
        other = replace(features, splits={"train": replace(split, text_bert=tokens)})
        said = refusal(args, other)
        assert "has token id 64, but the vocabulary" in said
        assert "mmsa-ext encode-text" in said
        check(args | {"use_bert": False}, other)

    def test_text_longer_than_the_encoder_reads(self, features, tiny_encoder):
        split = features.splits["train"]
        long = np.pad(split.text_bert, ((0, 0), (0, 0), (0, 60)))
        other = replace(features, splits={"train": replace(split, text_bert=long)})
        args = configuration("self_mm", pretrained=str(tiny_encoder))
        assert "is 70 tokens long" in refusal(args, other)

    def test_bert_mag_needs_a_bert(self, features, tmp_path):
        from transformers import DistilBertConfig

        DistilBertConfig(vocab_size=64, dim=16, n_layers=1, n_heads=2).save_pretrained(tmp_path)
        args = configuration("bert_mag", pretrained=str(tmp_path))
        assert "is a distilbert, and MAG is built into" in refusal(args, features)
        check(args | {"model_name": "self_mm"}, features)

    def test_one_that_is_not_there_is_told_when_it_is_loaded(self, features):
        """A finished run can be looked up without it."""
        check(configuration("self_mm", pretrained="no/such-encoder"), features)


@pytest.mark.parametrize("model", ["mlf_dnn", "mtfn", "mlmf"])
def test_unimodal_tasks_need_unimodal_labels(features, model):
    args = configuration(model, use_bert=False)
    assert "has no 'regression_labels_T', '_A' and '_V', from which" in refusal(args, features)
    for split in features.splits.values():
        split.labels.update(dict.fromkeys("TAV", split.labels["M"]))
    check(args, features)


class TestSteps:
    """12 samples in batches of 4 are 3 batches."""

    @pytest.mark.parametrize("model", ["mult", "misa", "self_mm", "mult_infoenh", "misa_infoenh"])
    @pytest.mark.parametrize("together", [0, 4])
    def test_fewer_batches_than_a_step_needs(self, features, model, together):
        args = configuration(model, batch_size=4, update_epochs=together, frame_lengths="own")
        said = refusal(args, features)
        assert "12 training samples in batches of 4 are 3, so that no weight" in said
        fitting = {0: 1, 4: 3}[together]
        assert f"config={{'update_epochs': {fitting}}}" in said
        check(args | {"update_epochs": fitting}, features)
        check(args | {"batch_size": 3, "update_epochs": 4}, features)

    @pytest.mark.parametrize("model", ["tfr_net", "lf_dnn"])
    def test_others_make_a_step_a_batch(self, features, model):
        check(configuration(model, batch_size=4, update_epochs=4), features)


class TestSelection:
    @pytest.fixture
    def constant(self, feature_data, tmp_path):
        def read(label: float) -> FeatureSet:
            feature_data["valid"]["regression_labels"][:] = label
            path = tmp_path / "constant.pkl"
            path.write_bytes(pickle.dumps(feature_data))
            return read_features(path, "mosi")

        return read

    @pytest.mark.parametrize("model", ["text_only", "lf_dnn"])
    def test_by_what_the_validation_labels_do_not_define(self, constant, features, model):
        args = configuration(model, need_data_aligned=False)
        said = refusal(args | {"KeyEval": "Corr"}, constant(1))
        assert "Corr is not defined on the validation split, whose labels are all 1" in said
        assert "Non0_acc_2 is not defined" in refusal(args | {"KeyEval": "Non0_acc_2"}, constant(0))
        check(args | {"KeyEval": "Non0_acc_2"}, constant(1))
        check(args | {"KeyEval": "MAE"}, constant(0))
        check(args | {"KeyEval": "Corr"}, features)


def test_a_run_is_refused_before_anything_is_trained(tmp_path, feature_file):
    config = {"corruption": {"remove": ["audio"], "at": "all"}}
    with pytest.raises(ConfigError, match="mmim cannot"):
        train("mmim", feature_file, tmp_path / "out", config=config)
    assert not list(tmp_path.glob("out/**/*.json"))
