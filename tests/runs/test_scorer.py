"""A scorer as a function of batches: in any form, in Ray Data, in Hugging Face datasets."""

import pickle

import numpy as np
import pytest

from MMSA_ext import Scorer, predict_file
from MMSA_ext.data.shards import write_shards
from MMSA_ext.errors import CheckpointError, ConfigError, FeatureFileError
from MMSA_ext.training.checkpoint import load_checkpoint, save_checkpoint
from tests.data.test_shards import samples_of

MODELS = ("dashfusion", "lf_dnn", "self_mm")


@pytest.fixture(scope="module")
def expected(checkpoints, features):
    return {model: predict_file(path, features) for model, path in checkpoints.items()}


def batch_of(data, split="train"):
    """A split as ragged columns."""
    values = data[split]
    count = len(values["id"])
    tokens = [int(mask.sum()) for mask in values["text_bert"][:, 1]]
    return {
        "id": np.array(values["id"]),
        "text_bert": [values["text_bert"][i][:, : tokens[i]] for i in range(count)],
        "text": [values["text"][i][: tokens[i]] for i in range(count)],
        **{
            key: [values[key][i, : values[f"{key}_lengths"][i]] for i in range(count)]
            for key in ("audio", "vision")
        },
        "label": values["regression_labels"],
    }


def flat(batch):
    return batch | {
        "text_bert": [tokens[0] for tokens in batch["text_bert"]],
        "audio": [frames.reshape(-1) for frames in batch["audio"]],
    }


def listed(batch):
    return {key: [np.asarray(v).tolist() for v in values] for key, values in batch.items()}


def objects(batch):
    def held(values):
        array = np.empty(len(values), object)
        array[:] = list(values)
        return array

    return {key: held(values) for key, values in batch.items()}


FORMS = {"ragged": lambda batch: batch, "flat": flat, "lists": listed, "objects": objects}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", MODELS)
def test_every_form_of_a_batch_is_scored_as_the_file(model, form, data, checkpoints, expected):
    scorer = Scorer(checkpoints[model], gpu_ids="cpu")
    result = scorer(FORMS[form](batch_of(data)))
    want = expected[model].query("split == 'train'")
    assert result["id"].tolist() == want.id.tolist()
    assert result["prediction"].dtype == np.float32
    np.testing.assert_allclose(result["prediction"], want.prediction, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_padded_arrays_with_lengths(model, data, checkpoints, expected):
    batch = {key: data["test"][key] for key in ("text_bert", "text", "audio", "vision")}
    lengths = {f"{key}_lengths": data["test"][f"{key}_lengths"] for key in ("audio", "vision")}
    padding = {
        key: batch[key] + 9 * (np.arange(batch[key].shape[1]) >= np.array(n)[:, None])[..., None]
        for key, n in zip(("audio", "vision"), lengths.values(), strict=True)
    }  # what is behind the lengths is not read
    result = Scorer(checkpoints[model], gpu_ids="cpu")(batch | padding | lengths)
    assert result.keys() == {"prediction"}
    want = expected[model].query("split == 'test'")
    np.testing.assert_allclose(result["prediction"], want.prediction, atol=1e-5)


@pytest.mark.parametrize("model", ["dashfusion", "self_mm"])
def test_raw_text_is_tokenised_by_the_encoder_of_the_checkpoint(model, data, checkpoints):
    batch = batch_of(data) | {"raw_text": ["word1 word7", "", *["word9 word3 word3"] * 10]}
    tokens = {"word1": 6, "word7": 12, "word9": 14, "word3": 8}  # behind five special ones
    batch["text_bert"] = [[2, *(tokens[w] for w in text.split()), 3] for text in batch["raw_text"]]
    scorer = Scorer(checkpoints[model], gpu_ids="cpu")
    want = scorer(batch)["prediction"]
    assert len(set(np.round(want, 6))) > 3
    del batch["text_bert"]
    np.testing.assert_allclose(scorer(batch)["prediction"], want, atol=1e-5)
    assert scorer.tokenizer is scorer.tokenizer


@pytest.mark.parametrize("model", MODELS)
def test_the_vector_that_is_predicted_from(model, data, checkpoints):
    scorer = Scorer(checkpoints[model], gpu_ids="cpu", embed=True)
    result = scorer(batch_of(data))
    assert result["embedding"].dtype == np.float32
    assert result["embedding"].shape[0] == 12
    assert np.isfinite(result["embedding"]).all()
    alone = scorer({key: values[3:4] for key, values in batch_of(data).items()})
    np.testing.assert_allclose(alone["embedding"][0], result["embedding"][3], atol=1e-5)
    plain = Scorer(checkpoints[model], gpu_ids="cpu")(batch_of(data))
    assert "embedding" not in plain
    np.testing.assert_array_equal(plain["prediction"], result["prediction"])


def test_a_batch_of_none(checkpoints):
    assert Scorer(checkpoints["dashfusion"])({"audio": [], "id": []})["prediction"].shape == (0,)


def changed(batch, key, row, value):
    values = list(batch[key])
    values[row] = value
    return batch | {key: values}


UNUSABLE = {
    "columns differ .* audio 11": lambda b: b | {"audio": b["audio"][1:]},
    "none of the columns": lambda b: {"sound": b["audio"]},
    r"vision of 'train\$_\$4' is missing": lambda b: changed(b, "vision", 4, None),
    r"audio of 'train\$_\$4' has shape \(3, 6\)": lambda b: changed(
        b, "audio", 4, np.zeros((3, 6))
    ),
    r"audio of 'train\$_\$4' has shape \(7,\)": lambda b: changed(b, "audio", 4, np.zeros(7)),
    r"audio_lengths of 'train\$_\$0' is 99": lambda b: b | {"audio_lengths": [99] * 12},
    r"audio_lengths of 'train\$_\$0' is -1": lambda b: b | {"audio_lengths": [-1] * 12},
    r"text_bert of 'train\$_\$4' has shape \(2, 5\)": lambda b: changed(
        b, "text_bert", 4, np.ones((2, 5))
    ),
    r"raw_text of 'train\$_\$0' is no text": lambda b: b | {"raw_text": [3] * 12},
    r"audio: is infinite in 1 sample: 0 \(id 'train\$_\$4'\)": lambda b: changed(
        b, "audio", 4, np.full((2, 5), np.inf)
    ),
    r"audio: is as large as .* \(id 'train\$_\$4'\)": lambda b: changed(
        b, "audio", 4, np.full((2, 5), 3e38)
    ),
    "it has no text, which dashfusion reads": lambda b: {
        k: v for k, v in b.items() if k != "text_bert"
    },
    r"audio'?: 1 of 1 samples have more than the 12 steps .*'train\$_\$4'": lambda b: changed(
        b, "audio", 4, np.ones((13, 5))
    ),
    "token id 900": lambda b: changed(b, "text_bert", 4, [2, 900, 3]),
    "ids .* are no token numbers": lambda b: changed(b, "text_bert", 4, [2, -1, 3]),
}


@pytest.mark.parametrize("said", UNUSABLE)
def test_what_cannot_be_scored_is_named(said, data, checkpoints):
    scorer = Scorer(checkpoints["dashfusion"], gpu_ids="cpu")
    with pytest.raises(FeatureFileError, match=said):
        scorer(UNUSABLE[said](batch_of(data)))


def test_samples_longer_than_in_training(data, checkpoints):
    long = changed(batch_of(data), "audio", 4, np.arange(100.0).reshape(20, 5))
    cut = changed(batch_of(data), "audio", 4, np.arange(60.0).reshape(12, 5))
    found = Scorer(checkpoints["dashfusion"], too_long="cut")(long)["prediction"]
    want = Scorer(checkpoints["dashfusion"])(cut)["prediction"]
    np.testing.assert_allclose(found, want, atol=1e-5)
    pooled = Scorer(checkpoints["dashfusion"], too_long="pool")(long)["prediction"]
    assert pooled[4] != pytest.approx(want[4], abs=1e-6)
    words = batch_of(data) | {"raw_text": ["word1 " * 100] * 12}
    del words["text_bert"]
    with pytest.raises(FeatureFileError, match="reads at most 64"):
        Scorer(checkpoints["dashfusion"])(words)
    assert np.isfinite(Scorer(checkpoints["dashfusion"], too_long="cut")(words)["prediction"]).all()
    with pytest.raises(ConfigError, match="too_long is 'refuse'"):
        Scorer(checkpoints["dashfusion"], too_long="refuse")


def test_pickled_it_is_small_and_the_same(data, checkpoints):
    scorer = Scorer(checkpoints["dashfusion"], gpu_ids="cpu", embed=True)
    want = scorer(batch_of(data))  # its network is built
    content = pickle.dumps(scorer)
    assert len(content) < 2000
    found = pickle.loads(content)
    assert not found._built
    assert "model" not in vars(found)
    for key, values in found(batch_of(data)).items():
        np.testing.assert_array_equal(values, want[key])


def test_another_checkpoint_at_the_other_end(tmp_path, checkpoints):
    path = tmp_path / "c.pth"
    checkpoint = load_checkpoint(checkpoints["dashfusion"])
    save_checkpoint(path, checkpoint)
    content = pickle.dumps(Scorer(path))
    next(iter(checkpoint.state_dict.values()))[:] = 0
    save_checkpoint(path, checkpoint)
    with pytest.raises(CheckpointError, match="another checkpoint than when this Scorer was made"):
        pickle.loads(content)


def test_in_datasets(tmp_path, data, checkpoints, expected):
    """Of shards, of lists in memory; what was computed is found again, and of no other model."""
    import datasets

    datasets.disable_progress_bars()
    write_shards(samples_of(data), tmp_path / "shards", 2)
    parts = sorted(str(part) for part in (tmp_path / "shards").iterdir())
    rows = datasets.load_dataset(
        "parquet", data_files=parts, split="train", cache_dir=str(tmp_path / "cache")
    )
    scorer = Scorer(checkpoints["dashfusion"], gpu_ids="cpu")
    scored = rows.map(scorer, batched=True, batch_size=7, remove_columns=rows.column_names)
    want = expected["dashfusion"].set_index("id").prediction
    assert len(scored) == 24
    for name, value in zip(scored["id"], scored["prediction"], strict=True):
        assert value == pytest.approx(want[name], abs=1e-5)

    built = Scorer(checkpoints["dashfusion"], gpu_ids="cpu")
    built(batch_of(data))  # having computed changes nothing of what it is
    again = rows.map(built, batched=True, batch_size=7, remove_columns=rows.column_names)
    assert again._fingerprint == scored._fingerprint
    assert again.cache_files == scored.cache_files
    other = Scorer(checkpoints["dashfusion"], gpu_ids="cpu", embed=True)
    vectors = rows.map(other, batched=True, batch_size=7, remove_columns=rows.column_names)
    assert vectors._fingerprint != scored._fingerprint
    assert len(vectors["embedding"][0]) > 1
    assert datasets.fingerprint.Hasher.hash(
        Scorer(checkpoints["self_mm"])
    ) != datasets.fingerprint.Hasher.hash(scorer)


@pytest.mark.slow  # half a minute, most of which Ray takes to start
def test_in_ray_data(tmp_path, data, checkpoints, expected):
    """As a function, and as a class that is built once in each worker."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    write_shards(samples_of(data), tmp_path / "shards", 2)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = ray.data.read_parquet(str(tmp_path / "shards"))
        path = str(checkpoints["dashfusion"])
        scorer = Scorer(path, gpu_ids="cpu")
        as_function = rows.map_batches(scorer, batch_size=7).take_all()
        as_class = rows.map_batches(
            Scorer,
            batch_size=7,
            concurrency=1,
            fn_constructor_args=[path],
            fn_constructor_kwargs={"gpu_ids": "cpu"},
        ).take_all()
    finally:
        ray.shutdown()
    want = expected["dashfusion"].set_index("id").prediction
    for found in (as_function, as_class):
        assert {row["id"] for row in found} == set(want.index)
        for row in found:
            assert row["prediction"] == pytest.approx(want[row["id"]], abs=1e-5)
