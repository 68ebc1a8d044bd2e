"""Corruption: what is lost, what stays, and that both ways into a model lose the same."""

import pickle
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from MMSA_ext import mmsa_bridge
from MMSA_ext.data import corruption, feature_checks
from MMSA_ext.data.corruption import CorruptionConfig, bind, corrupt, normalise
from MMSA_ext.data.features import FeatureSet, read_features
from MMSA_ext.errors import ConfigError
from MMSA_ext.names import SPLITS
from tests.conftest import loader_args, make_feature_data, tiny_config, train

ARRAYS = ("text_bert", "text", "audio", "vision")


@pytest.fixture
def features(feature_file):
    return read_features(feature_file, "mosi")


def changed(before: FeatureSet, after: FeatureSet) -> set[tuple[str, str]]:
    """Split and key of all arrays whose values differ."""
    return {
        (name, key)
        for name in SPLITS
        for key in ARRAYS
        if not np.array_equal(getattr(before.splits[name], key), getattr(after.splits[name], key))
    }


def valid_frames(split, key):
    longest = getattr(split, key).shape[1]
    return np.arange(longest) < getattr(split, f"{key}_lengths")[:, None]


def test_what_is_absent_has_nothing_to_lose(features):
    config = CorruptionConfig(remove=("vision",), drop_rate=0.5, noise=1.0, at="all")
    for absent in (["audio"], ["audio", "vision"], ["text"]):
        before = features.without(absent)
        after = corrupt(before, config)
        assert after.absent == before.absent
        assert {key for _, key in changed(before, after)} == {*ARRAYS} - {
            *absent, *(("text_bert",) if "text" in absent else ())
        }  # fmt: skip


class TestRemoved:
    def test_frames_become_zero_and_lengths_stay(self, features):
        config = CorruptionConfig(remove="audio")  # one, without a list
        assert config == CorruptionConfig(remove=("audio",))
        after = corrupt(features, config)
        assert changed(features, after) == {("test", "audio")}
        assert not after.splits["test"].audio.any()
        np.testing.assert_array_equal(
            after.splits["test"].audio_lengths, features.splits["test"].audio_lengths
        )

    def test_tokens_become_unknown_between_the_first_and_the_last(self, features):
        after = corrupt(features, CorruptionConfig(remove=("text",), unknown_token=1))
        assert changed(features, after) == {("test", "text_bert"), ("test", "text")}
        before, now = features.splits["test"].text_bert, after.splits["test"].text_bert
        np.testing.assert_array_equal(now[:, 1:], before[:, 1:])
        for old, new in zip(before, now, strict=True):
            length = int(old[1].sum())
            assert new[0, 0] == 2
            assert new[0, length - 1] == 3
            assert (new[0, 1 : length - 1] == 1).all()
            assert (new[0, length:] == 0).all()
        assert not after.splits["test"].text.any()

    def test_tokens_follow_the_convention_of_mmsas_incomplete_data(self, features):
        """`generate_m` at a rate of one, mask not full."""
        from MMSA.data_loader import MMDataset

        tokens = features.splits["test"].text_bert
        tokens = tokens[tokens[:, 1].min(axis=1) == 0]
        theirs, *_ = MMDataset.generate_m(
            None, tokens[:, 0], tokens[:, 1], None, 1.0, 0, mode="text"
        )
        split = replace(features.splits["test"], text_bert=tokens, text=None)
        ours = corrupt(
            replace(features, splits={"test": split}), CorruptionConfig(remove=("text",))
        )
        np.testing.assert_array_equal(ours.splits["test"].text_bert[:, 0], theirs)


class TestDropped:
    def test_only_valid_positions_of_the_named_modality_are_lost(self, features):
        after = corrupt(features, CorruptionConfig(drop_rate=0.5, modalities=("audio",)))
        assert changed(features, after) == {("test", "audio")}
        before, now = features.splits["test"].audio, after.splits["test"].audio
        lost = (now == 0).all(axis=2)
        valid = valid_frames(features.splits["test"], "audio")
        assert 0.2 < lost[valid].mean() < 0.8
        np.testing.assert_array_equal(now[~lost], before[~lost])

    def test_the_rate_is_a_probability(self):
        data = make_feature_data((2, 2, 400))
        after = corrupt(as_features(data), CorruptionConfig(drop_rate=0.3, unknown_token=1))
        split = after.splits["test"]
        lost = (split.audio == 0).all(axis=2)[valid_frames(split, "audio")]
        assert lost.mean() == pytest.approx(0.3, abs=0.03)

    def test_tokens_and_their_vectors_are_lost_together(self, features):
        after = corrupt(
            features, CorruptionConfig(drop_rate=0.5, modalities=("text",), unknown_token=63)
        )
        split = after.splits["test"]
        unknown = (split.text_bert[:, 0] == 63) & (features.splits["test"].text_bert[:, 0] != 63)
        assert unknown.any()
        assert not split.text[unknown].any()

    def test_what_is_lost_at_one_rate_is_lost_at_a_higher_one(self, features):
        few, many = (
            (corrupt(features, CorruptionConfig(drop_rate=rate)).splits["test"].audio == 0)
            for rate in (0.2, 0.6)
        )
        assert (many >= few).all()
        assert many.sum() > few.sum()


class TestNoise:
    def test_is_scaled_by_the_training_splits_deviation_and_spares_padding(self):
        data = make_feature_data((300, 2, 300))
        for split in data.values():
            split["audio"] *= np.array([1, 10, 0.1, 3, 0], np.float32)
        before = as_features(data)
        after = corrupt(before, CorruptionConfig(noise=0.5, modalities=("audio",)))
        assert changed(before, after) == {("test", "audio")}
        valid = valid_frames(before.splits["test"], "audio")
        noise = after.splits["test"].audio - before.splits["test"].audio
        assert not noise[~valid].any()
        train = before.splits["train"]
        deviation = train.audio[valid_frames(train, "audio")].std(axis=0)
        np.testing.assert_allclose(noise[valid].std(axis=0), 0.5 * deviation, rtol=0.05)
        np.testing.assert_allclose(noise[valid].mean(axis=0), 0, atol=0.05 * deviation.max())

    def test_leaves_token_ids_alone(self, features):
        after = corrupt(features, CorruptionConfig(noise=0.5))
        assert changed(features, after) == {
            ("test", "text"), ("test", "audio"), ("test", "vision")
        }  # fmt: skip

    def test_does_not_depend_on_the_size_of_a_block(self, features, monkeypatch):
        config = CorruptionConfig(noise=0.5)
        whole = corrupt(features, config)
        monkeypatch.setattr(feature_checks, "_BLOCK_VALUES", 64)
        assert not changed(whole, corrupt(features, config))

    def test_keeps_float16(self, features):
        split = features.splits["test"]
        half = replace(split, audio=split.audio.astype(np.float16))
        after = corrupt(
            replace(features, splits=features.splits | {"test": half}), CorruptionConfig(noise=0.5)
        )
        assert after.splits["test"].audio.dtype == np.float16

    def test_lost_frames_carry_none(self, features):
        clean = corrupt(features, CorruptionConfig(drop_rate=0.5))
        noisy = corrupt(features, CorruptionConfig(drop_rate=0.5, noise=1.0))
        lost = (clean.splits["test"].audio == 0).all(axis=2)
        assert not noisy.splits["test"].audio[lost].any()
        assert (noisy.splits["test"].audio != clean.splits["test"].audio).any()


class TestDeterminism:
    config = CorruptionConfig(drop_rate=0.5, noise=0.3, at="all", seed=3)

    def test_same_seed_same_loss_and_another_seed_another(self, features):
        first = corrupt(features, self.config)
        assert not changed(first, corrupt(features, self.config))
        other = corrupt(features, self.config.model_copy(update={"seed": 4}))
        assert ("test", "audio") in changed(first, other)

    def test_splits_differ(self, features):
        same = replace(features.splits["test"], name="valid")
        twin = replace(features, splits=features.splits | {"valid": same})
        after = corrupt(twin, self.config).splits
        assert not np.array_equal(after["valid"].audio, after["test"].audio)

    def test_other_splits_samples_and_modalities_play_no_part(self, features):
        config = self.config.model_copy(update={"noise": 0.0})
        whole = corrupt(features, config).splits["test"]
        alone = replace(features, splits={"test": features.splits["test"]})
        np.testing.assert_array_equal(corrupt(alone, config).splits["test"].audio, whole.audio)
        only = config.model_copy(update={"modalities": ("audio",)})
        np.testing.assert_array_equal(corrupt(features, only).splits["test"].audio, whole.audio)
        data = make_feature_data((12, 6, 6))
        shorter = {key: value[:4] for key, value in data["test"].items()}
        fewer = corrupt(as_features(data | {"test": shorter}), config).splits["test"]
        np.testing.assert_array_equal(fewer.audio, whole.audio[:4])

    def test_input_is_never_changed_and_what_stays_is_shared(self, features):
        before = {
            (name, key): getattr(features.splits[name], key).copy()
            for name in SPLITS
            for key in ARRAYS
        }
        after = corrupt(features, CorruptionConfig(remove=("audio",), drop_rate=0.5, noise=1.0))
        for (name, key), copy in before.items():
            np.testing.assert_array_equal(getattr(features.splits[name], key), copy)
        assert after.splits["train"] is features.splits["train"]
        assert after.splits["test"].labels is features.splits["test"].labels

    def test_none_changes_nothing(self, features):
        assert corrupt(features, None) is features


CONFIGS = [
    CorruptionConfig(remove=("audio", "text")),
    CorruptionConfig(drop_rate=0.4, noise=0.7, at="all", seed=1, unknown_token=7),
    CorruptionConfig(remove=("vision",), drop_rate=0.4, modalities=("text",), at="all"),
]


class TestMMSAsLoader:
    """The same arrays reach MMSA's models, through MMSA's own reading of the files."""

    @pytest.mark.parametrize("config", CONFIGS)
    @pytest.mark.parametrize("use_bert", [True, False])
    def test_gets_the_arrays_of_the_feature_set(self, features, config, use_bert):
        loaders = mmsa_loaders(features.path, config, use_bert=use_bert)
        assert_equal(loaders, corrupt(features, config), "text_bert" if use_bert else "text")

    def test_gets_them_from_separate_files_too(self, tmp_path, feature_file):
        other = {}
        for role, seed in (("feature_T", 1), ("feature_A", 2), ("feature_V", 3)):
            other[role] = tmp_path / f"{role}.pkl"
            other[role].write_bytes(pickle.dumps(make_feature_data(seed=seed)))
        ours = corrupt(read_features(feature_file, "mosi", **other), CONFIGS[1])
        assert_equal(mmsa_loaders(feature_file, CONFIGS[1], **other), ours, "text_bert")

    def test_derived_lengths_and_silence_are_read_alike(self, tmp_path, feature_data):
        for split in feature_data.values():
            split["audio"][1, 0, 0] = -np.inf
        path = tmp_path / "aligned.pkl"
        for split in feature_data.values():
            del split["audio_lengths"], split["vision_lengths"]
        path.write_bytes(pickle.dumps(feature_data))
        config = CorruptionConfig(drop_rate=0.4, noise=0.7, at="all")
        loaders = mmsa_loaders(path, config, need_data_aligned=True)
        assert_equal(loaders, corrupt(read_features(path, "mosi"), config), "text_bert")


class TestRuns:
    """By configuration, whoever's loop trains."""

    @pytest.fixture
    def run(self, tmp_path, feature_file, tiny_encoder):
        def run(model, **config):
            own = tiny_config(model, tiny_encoder) if model == "text_only" else {"early_stop": 1}
            return train(model, feature_file, tmp_path / "out", config=own | config)

        return run

    @pytest.mark.parametrize("model", ["text_only", "lf_dnn"])
    def test_training_is_clean_at_test_and_the_record_says_what_was_lost(self, run, model):
        clean = run(model)
        lossy = run(model, corruption={"remove": ["text"]})
        everywhere = run(model, **{"corruption.remove": ["text"], "corruption.at": "all"})
        assert not lossy.reused
        assert lossy.record.metrics["valid"] == clean.record.metrics["valid"]
        assert lossy.metrics != clean.metrics
        assert everywhere.record.metrics["valid"] != clean.record.metrics["valid"]
        assert any("text removed" in note for note in lossy.record.notes)
        assert not any("corrupted" in note for note in clean.record.notes)
        assert lossy.record.identity.configuration["corruption"]["remove"] == ["text"]

    def test_a_rate_of_zero_is_the_run_without(self, run):
        run("lf_dnn")
        assert run("lf_dnn", corruption={"drop_rate": 0, "at": "all"}).reused


class TestConfiguration:
    def test_is_complete_and_spelled_in_one_way(self):
        first = normalise({"remove": ["vision", "audio"]})
        assert first == normalise({"remove": ["audio", "vision"]})
        assert first == normalise(first)
        assert first["remove"] == ["audio", "vision"]
        assert first.keys() == CorruptionConfig.model_fields.keys()

    @pytest.mark.parametrize("value", [None, {}, {"drop_rate": 0.0, "modalities": ["audio"]}])
    def test_what_changes_nothing_is_no_corruption(self, value):
        assert normalise(value) is None
        assert bind({"corruption": value}) is None

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ({"remove": ["audio", "text", "vision"]}, "all three"),
            ({"remove": ["sound"]}, r"corruption\.remove\.0"),
            ({"drop_rate": 1.0}, r"corruption\.drop_rate"),
            ({"noise": -1}, r"corruption\.noise"),
            ({"modalities": [], "noise": 1}, "modalities is empty"),
            ({"drop_rat": 0.5}, "did you mean drop_rate"),
            ({"at": "train", "noise": -1}, "2 problem"),
            ("audio", "corruption"),
        ],
    )
    def test_mistakes_are_named(self, value, said):
        with pytest.raises(ConfigError, match=said):
            normalise(value)

    def test_unknown_token_is_the_encoders_own(self, tiny_encoder, tmp_path):
        def token(**args):
            return bind({"corruption": {"remove": ["text"]}, "use_bert": True, **args})

        assert token(pretrained=str(tiny_encoder)).unknown_token == 1
        assert token().unknown_token == 100
        assert token(corruption={"remove": ["text"], "unknown_token": 5}).unknown_token == 5
        assert token(corruption={"remove": ["audio"]}).unknown_token is None
        assert token(use_bert=False).unknown_token is None

    def test_an_encoder_without_tokenizer_gets_mmsas(self, tiny_encoder, tmp_path, caplog):
        (tmp_path / "config.json").write_text((tiny_encoder / "config.json").read_text())
        args = {"corruption": {"drop_rate": 0.1}, "use_bert": True, "pretrained": str(tmp_path)}
        assert bind(args).unknown_token == 100
        assert "corruption.unknown_token" in caplog.text

    def test_is_noted_in_the_record(self):
        (said,) = corruption.notes(
            CorruptionConfig(
                remove=("text",), drop_rate=0.3, noise=1, modalities=("audio",), unknown_token=7
            )
        )
        for part in ("test split", "text removed", "0.3", "audio", "1 standard", "id 7", "seed 0"):
            assert part in said
        assert "all splits" in corruption.notes(CorruptionConfig(noise=1, at="all"))[0]
        assert corruption.notes(None) == ()


def as_features(data) -> FeatureSet:
    """Feature data in memory, read as from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "features.pkl")
        path.write_bytes(pickle.dumps(data))
        return read_features(path, "mosi")


def mmsa_loaders(path, config, **more):
    named = {key: str(v) if key.startswith("feature_") else v for key, v in more.items()}
    args = loader_args(path, **named)
    others = {key: more[key] for key in ("feature_T", "feature_A", "feature_V") if key in more}
    features = corrupt(read_features(path, "mosi", **others), config)
    with mmsa_bridge.registered(), mmsa_bridge.provided_features(features):
        return mmsa_bridge.stock_loaders(args)


def assert_equal(loaders, features, text_key):
    for name, split in features.splits.items():
        dataset = loaders[name].dataset
        for theirs, ours in (("text", text_key), ("audio", "audio"), ("vision", "vision")):
            np.testing.assert_array_equal(getattr(dataset, theirs), getattr(split, ours), ours)
