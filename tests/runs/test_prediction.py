"""Scoring with a trained checkpoint."""

import copy
import logging
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from MMSA_ext import MMSA_test, Scorer, load_model, mmsa_bridge, predict_file
from MMSA_ext.errors import CheckpointError, ConfigError, FeatureFileError
from MMSA_ext.explain.trained_model import load_trained
from MMSA_ext.training.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import make_feature_data, tiny_config, train
from tests.models.hosts.variants import INFOENH, TRAINING, read_by, write_features


@pytest.fixture(params=["dashfusion", "text_only", "lf_dnn"])
def trained(request, tmp_path, feature_file, tiny_encoder):
    model = request.param
    config = {"early_stop": 1} if model == "lf_dnn" else tiny_config(model, tiny_encoder)
    return train(model, feature_file, tmp_path, config=config)


def test_a_whole_file_is_scored_as_in_the_run(trained, feature_file):
    table = predict_file(trained.checkpoint, feature_file)
    assert list(table.columns) == ["split", "id", "label", "prediction"]
    recorded = pd.read_csv(trained.record_path.with_suffix(".predictions.csv"))
    merged = table.merge(recorded, on=["split", "id"], suffixes=("", "_run"))
    assert len(merged) == len(table) == 24
    np.testing.assert_allclose(merged.prediction, merged.prediction_run, atol=1e-5)


def test_the_network_of_a_checkpoint(trained):
    scorer = Scorer(trained.checkpoint, gpu_ids="cpu")
    network = load_model(trained.checkpoint, gpu_ids="cpu")
    assert not network.training
    if scorer.is_stock:
        assert type(network) is mmsa_bridge.model_class("lf_dnn")
    found = {f"Model.{name}": value for name, value in network.state_dict().items()}
    assert found.keys() == scorer.state_dict.keys()
    assert all(torch.equal(found[name], value) for name, value in scorer.state_dict.items())
    assert scorer.model is scorer.model  # built once


def test_overrides_that_replace_nothing_are_refused(trained, feature_file):
    for given, said in (
        ({"early_stp": 3}, "did you mean early_stop"),
        ({"a.b": 3}, "no key 'a'"),
    ):
        with pytest.raises(ConfigError, match=said):
            predict_file(trained.checkpoint, feature_file, overrides=given)
    whole = dict(trained.record.identity.configuration)
    whole.pop("pretrained", None)  # a record names an encoder by its content
    given = whole | {"train_mode": "regression", "device": "cpu"}  # as MMSA's dictionaries have it
    assert len(predict_file(trained.checkpoint, feature_file, overrides=given)) == 24


def test_labels_are_not_needed(trained, tmp_path, feature_data):
    unlabelled = {"test": {k: v for k, v in feature_data["test"].items() if "labels" not in k}}
    path = tmp_path / "unlabelled.pkl"
    path.write_bytes(pickle.dumps(unlabelled))
    table = predict_file(trained.checkpoint, path)
    assert len(table) == 6
    assert table.label.isna().all()
    assert np.isfinite(table.prediction).all()


def test_one_sample_in_mmsa_layout(trained, tmp_path, feature_data, feature_file):
    test = feature_data["test"]
    length = {name: test[f"{name}_lengths"][0] for name in ("audio", "vision")}
    sample = {
        "text": test["text"][0],
        "text_bert": test["text_bert"][0],
        "audio": test["audio"][0][: length["audio"]],
        "vision": test["vision"][0][: length["vision"]],
    }
    path = tmp_path / "sample.pkl"
    path.write_bytes(pickle.dumps(sample))
    whole = predict_file(trained.checkpoint, feature_file)
    want = whole[whole.split == "test"].prediction.iloc[0]
    got = MMSA_test(None, trained.checkpoint, path, gpu_id=-1)
    assert got == pytest.approx(want, abs=1e-4)


def test_features_that_do_not_fit_are_refused(trained, tmp_path, feature_data):
    for split in feature_data.values():
        split["audio"] = np.repeat(split["audio"], 2, axis=2)
    path = tmp_path / "wide.pkl"
    path.write_bytes(pickle.dumps(feature_data))
    if "text_only" in trained.checkpoint.name:  # which reads no audio
        assert len(predict_file(trained.checkpoint, path)) == 24
        return
    with pytest.raises(FeatureFileError, match=r"audio.*10 features.*trained on 5"):
        predict_file(trained.checkpoint, path)


def test_weights_alone_with_their_configuration(trained, tmp_path, feature_file):
    import json

    checkpoint = load_checkpoint(trained.checkpoint)
    bare, config = tmp_path / "bare.pth", tmp_path / "config.json"
    torch.save(checkpoint.state_dict, bare)
    if checkpoint.scaling is not None:  # weights alone say nothing of what they were trained on
        with pytest.raises(CheckpointError, match="lacks the means and deviations"):
            predict_file(bare, feature_file, overrides=checkpoint.config)
    unscaled = checkpoint.config | {"feature_scaling": "none"}
    config.write_text(json.dumps(unscaled))
    whole = predict_file(trained.checkpoint, feature_file, overrides={"feature_scaling": "none"})
    again = predict_file(bare, feature_file, overrides=unscaled)
    np.testing.assert_array_equal(whole.prediction, again.prediction)
    with pytest.raises(FeatureFileError, match=r"24 samples.*predict_file"):  # it was understood
        MMSA_test(config, bare, feature_file)
    lacking = {"model_name": "x", "dataset_name": "mosi", "seq_lens": [1, 1, 1]}
    with pytest.raises(CheckpointError, match="lacks feature_dims"):
        predict_file(bare, feature_file, overrides=lacking)


def test_what_is_not_read_changes_no_bit(tmp_path, tiny_encoder):
    """Trained with audio and vision in the file and without, scored on either, by any length."""
    data = make_feature_data((40, 12, 30))
    keys = ("id", "raw_text", "text_bert", "regression_labels")
    files = {"all": data, "text": {s: {k: v[k] for k in keys} for s, v in data.items()}}
    tables = []
    for name, content in files.items():
        files[name] = tmp_path / f"{name}.pkl"
        files[name].write_bytes(pickle.dumps(content))
    for name, file in files.items():
        config = tiny_config("text_only", tiny_encoder)
        seed = train("text_only", file, tmp_path / name, config=config)
        assert load_checkpoint(seed.checkpoint).config["feature_dims"][1:] == [0, 0]
        tables.append(pd.read_csv(seed.record_path.with_suffix(".predictions.csv")))
        for scored in files.values():
            tables.append(predict_file(seed.checkpoint, scored)[tables[0].columns])
    for table in tables:
        np.testing.assert_array_equal(table.prediction, tables[0].prediction)


def test_a_file_that_lacks_what_is_read(trained, tmp_path, feature_data):
    for split in feature_data.values():
        del split["vision"], split["vision_lengths"]
    path = tmp_path / "novision.pkl"
    path.write_bytes(pickle.dumps(feature_data))
    if "text_only" in trained.checkpoint.name:
        assert len(predict_file(trained.checkpoint, path)) == 24
        return
    with pytest.raises(FeatureFileError, match=r"novision\.pkl does not .*\n  it has no vision"):
        predict_file(trained.checkpoint, path)


RECIPE = {
    "text": {"name": "tiny", "version": "1", "max_length": 10},
    "audio": {"name": "opensmile", "version": "2.5.0", "feature_set": "eGeMAPSv02"},
    "vision": {"name": "openface", "version": "2.2.0"},
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory, tiny_encoder):
    """Checkpoints of two models of this package, of MMSA and of a variant; and their features."""
    folder = tmp_path_factory.mktemp("sound")
    features = write_features(folder / "features.pkl", planted=True)
    features.write_bytes(pickle.dumps(pickle.loads(features.read_bytes()) | {"recipe": RECIPE}))
    ours = ("text_only", "dashfusion")
    own = {model: tiny_config(model, tiny_encoder, num_epochs=1) for model in ours}
    given = TRAINING | {"pretrained": str(tiny_encoder)}
    host = {"lf_dnn": read_by("lf_dnn", given)}
    variant = {"self_mm_infoenh": read_by("self_mm_infoenh", given) | {"infoenh": INFOENH}}
    found = {}
    for model, config in (host | variant | own).items():
        seed = train(model, features, folder, config=config)
        found[model] = load_checkpoint(seed.checkpoint)
        read = {"text": RECIPE["text"]} if model == "text_only" else RECIPE
        assert seed.record.recipe == found[model].recipe == read
    return found, features


CONFIGURATIONS = {
    "lacks dataset_name, feature_dims, model_name, seq_lens": lambda c: c.clear(),
    "lacks seq_lens": lambda c: c.pop("seq_lens"),
    r"unknown model 'none'; .*--import MODULE": lambda c: c.update(model_name="none"),
    "model_name is no name": lambda c: c.update(model_name=None),
    "unknown data set 'mossi'; did you mean mosi": lambda c: c.update(dataset_name="mossi"),
    "feature_dims is not three numbers from 0": lambda c: c.update(feature_dims=[1, 2]),
    "seq_lens is not three numbers from 0": lambda c: c.update(seq_lens=[1, 2, True]),
    "'update' is no name of a key": lambda c: c.update(update=1),
    "'items' is no name of a key": lambda c: c.update(more={"items": 1}),
    "feature_dims is 0 of vision, which|its model reads": lambda c: c.update(
        feature_dims=[1, 2, 0]
    ),
    "pretrained is no name": lambda c: c.update(pretrained=["a"]),
    "do(es)? not fit|builds no|GiB": lambda c: c.update(seq_lens=[10**9] * 3),
}


@pytest.mark.parametrize("model", ["text_only", "lf_dnn", "self_mm_infoenh"])
@pytest.mark.parametrize("said", CONFIGURATIONS)
def test_a_configuration_that_is_none(said, model, sound, tmp_path):
    checkpoints, features = sound
    if model == "text_only" and "GiB" in said:
        pytest.skip("it reads sequences of any length")
    path = tmp_path / "c.pth"
    config = copy.deepcopy(checkpoints[model].config)
    CONFIGURATIONS[said](config)
    save_checkpoint(path, replace(checkpoints[model], config=config))
    for score in (
        predict_file,
        load_trained,
        lambda path, features: MMSA_test(None, path, features),
    ):
        with pytest.raises(CheckpointError, match=said) as error:
            score(path, features)
        assert "c.pth" in str(error.value)


@pytest.mark.parametrize("key", ["batch_size", "need_data_aligned", "KeyEval", "hidden_dims"])
def test_a_key_that_mmsa_reads_and_the_configuration_lacks(key, sound, tmp_path):
    """Some matter in training alone."""
    checkpoints, features = sound
    path, config = tmp_path / "c.pth", dict(checkpoints["lf_dnn"].config)
    del config[key]
    save_checkpoint(path, replace(checkpoints["lf_dnn"], config=config))
    if key == "KeyEval":
        predict_file(path, features)
        return
    with pytest.raises(CheckpointError, match=rf"c\.pth.*{key}"):
        predict_file(path, features)
    predict_file(path, features, overrides=checkpoints["lf_dnn"].config)


def test_defaults_fill_what_the_configuration_of_a_model_of_ours_lacks(sound, tmp_path):
    checkpoints, features = sound
    path, whole = tmp_path / "c.pth", checkpoints["text_only"]
    lacks = {k: v for k, v in whole.config.items() if k not in ("eval_batch_size", "learning_rate")}
    scores = []
    for checkpoint in (whole, replace(whole, config=lacks)):
        save_checkpoint(path, checkpoint)
        scores.append(predict_file(path, features).prediction)
    np.testing.assert_allclose(*scores, atol=1e-6)


@pytest.mark.parametrize("command", ["predict", "explain embeddings"])
def test_a_damaged_checkpoint_on_the_command_line(command, sound, tmp_path, typed):
    checkpoints, features = sound
    path = tmp_path / "c.pth"
    save_checkpoint(path, checkpoints["lf_dnn"])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    ended, said = typed(f"mmsa-ext {command} {path} {features} -o {tmp_path / 'out'}")
    assert ended != 0
    assert "c.pth" in said
    assert "damaged" in said
    assert "Traceback" not in said


class TestRecipes:
    """The features of a checkpoint of each kind, and others of the same widths."""

    @pytest.fixture(params=["dashfusion", "lf_dnn", "self_mm_infoenh"])
    def checkpoint(self, request, sound, tmp_path):
        path = tmp_path / "c.pth"
        save_checkpoint(path, sound[0][request.param])
        return path

    @pytest.fixture
    def made(self, sound, tmp_path):
        """A file with the features of training, and another recipe or none."""

        def write(recipe, name="new.pkl"):
            data = pickle.loads(sound[1].read_bytes()) | {"recipe": recipe}
            (tmp_path / name).write_bytes(pickle.dumps(data))
            return tmp_path / name

        return write

    @pytest.fixture(autouse=True)
    def warnings_alone(self, caplog):
        """Whatever level the log of another test left."""
        with caplog.at_level(logging.WARNING, "MMSA"):
            yield

    def test_the_same(self, checkpoint, sound, caplog):
        predict_file(checkpoint, sound[1])
        assert caplog.text == ""

    def test_another_is_refused(self, checkpoint, made, caplog):
        covarep = RECIPE["audio"] | {"name": "covarep"}
        path = made(RECIPE | {"audio": covarep, "vision": RECIPE["vision"] | {"rate": 25}})
        for score in (predict_file, load_trained):
            with pytest.raises(FeatureFileError) as error:
                score(checkpoint, path)
        first, audio, vision, mend = str(error.value).splitlines()
        assert str(path) in first
        assert str(checkpoint) in first
        assert audio.strip() == (
            "audio is covarep 2.5.0 (feature_set eGeMAPSv02), in training it was opensmile 2.5.0 "
            "(feature_set eGeMAPSv02)"
        )
        assert vision.strip().startswith("vision is openface 2.2.0 (rate 25), ")
        assert "--any-recipe" in mend
        assert "any_recipe=True" in mend
        assert caplog.text == ""
        insisted = predict_file(checkpoint, path, any_recipe=True)
        assert len(insisted) == 32
        assert [line.count("scored as any_recipe says") for line in caplog.messages] == [1]

    def test_of_what_is_not_read_does_not_matter(self, sound, made, tmp_path, caplog):
        save_checkpoint(tmp_path / "c.pth", sound[0]["text_only"])
        covarep = RECIPE["audio"] | {"name": "covarep"}
        assert len(predict_file(tmp_path / "c.pth", made(RECIPE | {"audio": covarep}))) == 32
        assert caplog.text == ""

    def test_another_version_or_unknown_is_said_once_a_file(self, checkpoint, made, caplog):
        newer = RECIPE | {"audio": RECIPE["audio"] | {"version": "3.0"}}
        predict_file(checkpoint, made(newer))
        (said,) = caplog.messages
        assert (
            "audio is opensmile 3.0 (feature_set eGeMAPSv02), in training it was opensmile" in said
        )
        caplog.clear()
        scorer = Scorer(checkpoint)
        assert not caplog.messages
        for name in ("a.pkl", "b.pkl"):
            scorer.predict(scorer.read(made({"text": RECIPE["text"]}, name)))
        assert [line.count(" is unknown, in training it was ") for line in caplog.messages] == [
            2,
            2,
        ]

    def test_a_checkpoint_that_says_nothing_says_so_once(self, sound, made, tmp_path, caplog):
        path = tmp_path / "c.pth"
        save_checkpoint(path, replace(sound[0]["lf_dnn"], recipe={"text": RECIPE["text"]}))
        scorer = Scorer(path)
        for recipe in (RECIPE, {"text": RECIPE["text"]}):
            scorer.predict(scorer.read(made(recipe)))
        (said,) = caplog.messages
        assert "c.pth does not say who made its training features' audio, vision" in said

    def test_a_frame_of_another_width_is_said_first(self, checkpoint, sound, tmp_path):
        data = pickle.loads(sound[1].read_bytes())
        for split in ("train", "valid", "test"):
            data[split]["audio"] = np.repeat(data[split]["audio"], 2, axis=2)
        path = tmp_path / "wide.pkl"
        path.write_bytes(pickle.dumps(data | {"recipe": {"audio": RECIPE["vision"]}}))
        with pytest.raises(FeatureFileError, match="10 features"):
            predict_file(checkpoint, path)

    def test_on_the_command_line(self, sound, made, tmp_path, typed):
        path, new = tmp_path / "c.pth", made(RECIPE | {"text": RECIPE["vision"]})
        save_checkpoint(path, sound[0]["lf_dnn"])
        command = f"mmsa-ext predict {path} {new} -o {tmp_path / 'p.csv'}"
        ended, said = typed(command)
        assert ended == 2
        assert "text is openface 2.2.0, in training it was tiny 1 (max_length 10)" in said
        assert not (tmp_path / "p.csv").exists()
        assert typed(f"{command} --any-recipe")[0] == 0
        assert len(pd.read_csv(tmp_path / "p.csv")) == 32


def test_the_recipe_is_no_part_of_a_runs_name(trained):
    assert "recipe" not in trained.record.identity.model_dump_json()
    assert trained.record.recipe == load_checkpoint(trained.checkpoint).recipe == {}
