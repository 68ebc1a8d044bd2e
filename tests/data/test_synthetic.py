"""Generated data: MMSA's layout, the planted structure, and the optimum it permits."""

import pickle

import numpy as np
import pandas as pd
import pytest

from MMSA_ext.data import synthetic
from MMSA_ext.data.features import read_features
from MMSA_ext.data.synthetic_structure import CUE_LEVELS, gate_signs
from MMSA_ext.data.synthetic_text import CHINESE, ENGLISH, SYNONYMS
from MMSA_ext.errors import ConfigError, FeatureFileError
from tests.conftest import loader_args

SMALL = {"lengths": (12, 16, 24), "dims": (8, 5, 6)}
TINY = {"sizes": (10, 5, 7), **SMALL}
LEXICONS = {"mosi": ENGLISH, "mosei": ENGLISH, "sims": CHINESE, "simsv2": CHINESE}


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return np.array_equal(a, b)


def read_cue(split, spec, name, lag):
    """Decode a cue from the features alone: its amplitude, and the word it accompanies."""
    modality = ("text", "audio", "vision").index(name)
    features, lengths = split[name], np.array(split[f"{name}_lengths"])
    span = synthetic.cue_frames(spec, modality)
    first = split["planted"][f"{name}_frame"]
    frames = features[np.arange(len(features))[:, None], first[:, None] + np.arange(span)].mean(1)
    direction = synthetic.cue_direction(name, features.shape[2])
    amplitude = frames @ direction / np.sum(direction**2) / synthetic.Structure().gain
    counts = split["text_bert"][:, 1].sum(1) - 2
    word = (first + span // 2 + 0.5) / lengths * counts - 0.5 - lag
    return amplitude, np.round(word).astype(int)


def read_text(split, lexicon):
    """Decode the text part from the ids: strength in [-1, 1], and words by position."""
    ids = split["text_bert"][:, 0].astype(int)
    names = np.array(synthetic.vocabulary())[ids]
    level = np.array(
        [[lexicon.sentiment.index(w) for w in row if w in lexicon.sentiment] for row in names]
    )
    assert level.shape == (len(ids), 1)
    return np.array([-3, -2, -1, 1, 2, 3])[level[:, 0] // SYNONYMS] / 3, names[:, 1:]


def decode(split, dataset, spec):
    """Everything a perfect reader sees, by modality subset."""
    lexicon = LEXICONS[dataset]
    text, names = read_text(split, lexicon)
    inverted = np.isin(names, lexicon.inverted)
    gated, rows, seen = inverted.any(1), np.arange(len(names)), {}
    for name, lag in zip(("audio", "vision"), synthetic.Structure().lag, strict=True):
        amplitude, word = read_cue(split, spec, name, lag)
        seen[name] = amplitude
        seen[f"{name}_signed"] = amplitude * np.where(inverted[rows, word], -1, 1)
    a, v = seen["audio"], seen["vision"]
    a_signed, v_signed = seen["audio_signed"], seen["vision_signed"]
    columns = {
        "text": [text], "audio": [a], "vision": [v], "audio+vision": [a, v],
        "text+audio": [text, a_signed], "text+vision": [text, v_signed],
        "text+audio+vision": [text, a_signed, v_signed],
        "text+audio+vision, unaligned": [text, a, v, gated],
    }  # fmt: skip
    return {subset: np.column_stack(c) for subset, c in columns.items()}


@pytest.mark.parametrize("dataset", LEXICONS)
def test_stock_mmsa_and_our_own_reader_read_it(dataset, tmp_path):
    path = synthetic.write(tmp_path / "data.pkl", dataset, **TINY)
    from MMSA.data_loader import MMDataset

    for use_bert, text_shape in ((True, (3, 12)), (False, (12, 8))):
        missing = {"missing_rate": [0.2] * 3, "missing_seed": [1] * 3, "data_missing": True}
        args = loader_args(path, dataset_name=dataset, use_bert=use_bert, **missing)
        for mode, size in zip(("train", "valid", "test"), TINY["sizes"], strict=True):
            data = MMDataset(args, mode=mode)
            assert len(data) == size
            sample = data[size - 1]
            assert tuple(sample["text"].shape) == text_shape
            assert tuple(sample["audio"].shape) == (16, 5)
            assert tuple(sample["vision"].shape) == (24, 6)
            assert set(sample["labels"]) == (set("MTAV") if "sims" in dataset else {"M"})
    read = read_features(path, dataset)
    assert read.report.problems == read.report.warnings == []
    assert read.splits["train"].text_bert.shape == (10, 3, 12)


@pytest.mark.parametrize("dataset", LEXICONS)
def test_layout(dataset):
    spec = synthetic.DATASETS[dataset]
    data = synthetic.make(dataset, sizes=(6, 2, 2))
    ids = [i for split in data.values() for i in split["id"]]
    assert len(set(ids)) == len(ids) == 10
    for split in data.values():
        n = len(split["id"])
        for i, name in enumerate(("text", "audio", "vision")):
            assert split[name].shape == (n, spec.lengths[i], spec.dims[i])
            assert split[name].dtype == np.float32
        assert split["text_bert"].shape == (n, 3, spec.lengths[0])
        assert {type(x) for x in split["audio_lengths"] + split["vision_lengths"]} == {int}
        labels = split["regression_labels"]
        assert labels.dtype == np.float32
        assert np.abs(labels).max() <= spec.label_range
        np.testing.assert_allclose(labels * spec.steps, np.round(labels * spec.steps), atol=1e-5)
        np.testing.assert_array_equal(split["classification_labels"], np.sign(labels) + 1)
        words = {-1: "Negative", 0: "Neutral", 1: "Positive"}
        assert split["annotations"].tolist() == [words[s] for s in np.sign(labels)]
        for name in ("audio", "vision"):
            padding = np.arange(split[name].shape[1]) >= np.array(split[f"{name}_lengths"])[:, None]
            assert not split[name][padding].any()
            assert split[name][~padding].any(1).all()
        assert not split["text"][split["text_bert"][:, 1] == 0].any()


def test_lengths_are_ragged_as_in_the_real_data():
    split = synthetic.make("mosi", sizes=(2000, 1, 1), dims=(2, 2, 2), text_features=False)["train"]
    words = split["text_bert"][:, 1].sum(1)
    assert 14 < words.mean() < 17  # real: 15.2
    assert 28 < np.percentile(words, 95) < 36  # real: 32
    for name, total in (("audio", 375), ("vision", 500)):
        ratio = np.array(split[f"{name}_lengths"]) / (words - 2)
        assert ratio.max() <= total / 48 + 0.1
        assert ratio.min() >= 0.95 * total / 48 - 0.1
        assert ratio.std() > 0.05


def test_seed_decides():
    first, again = synthetic.make("sims", seed=3, **TINY), synthetic.make("sims", seed=3, **TINY)
    assert equal(first, again)
    other = synthetic.make("sims", seed=4, **TINY)
    assert not equal(first["train"]["audio"], other["train"]["audio"])
    assert not equal(first["train"]["regression_labels"], other["train"]["regression_labels"])
    assert not equal(first["valid"]["audio"], first["test"]["audio"][:5])
    # A split depends neither on the others' sizes nor on whether text features are asked for.
    larger = synthetic.make("sims", seed=3, text_features=False, **{**TINY, "sizes": (99, 5, 7)})
    assert "text" not in larger["test"]
    assert equal({**larger["test"], "text": first["test"]["text"]}, first["test"])


def test_a_token_has_the_same_vector_in_every_file():
    def vectors(seed):
        split = synthetic.make("mosi", seed=seed, **TINY)["train"]
        return split["text"][:, 0]  # [CLS]

    np.testing.assert_allclose(vectors(0).mean(0), vectors(1).mean(0), atol=0.2)


@pytest.mark.parametrize("dataset", ["mosi", "sims"])
@pytest.mark.parametrize("lag", [(1.0, -1.0), (-1.0, 0.5), (0.0, 0.0)])
def test_cues_lag_their_words(dataset, lag):
    spec = synthetic.DATASETS[dataset]
    options = {"sizes": (300, 1, 1), "dims": (2, 5, 6), "text_features": False}
    split = synthetic.make(dataset, lag=lag, **options)["train"]
    planted, counts = split["planted"], split["text_bert"][:, 1].sum(1) - 2
    for name, shift in zip(("audio", "vision"), lag, strict=True):
        _, word = read_cue(split, spec, name, shift)
        np.testing.assert_array_equal(word, planted[f"{name}_word"])
        for position in (word, word + shift):
            assert (position >= 0).all()
            assert (position <= counts - 1).all()
        # The cue is where the onset flag is highest.
        span = synthetic.cue_frames(spec, 1 if name == "audio" else 2)
        flag = np.apply_along_axis(np.convolve, 1, split[name][:, :, 0], np.ones(span), "valid")
        assert (flag.argmax(1) == planted[f"{name}_frame"]).mean() > (0.95 if span > 1 else 0.75)
    apart = np.abs(planted["audio_word"] - planted["vision_word"])
    assert apart.min() >= 2
    assert (planted["text_word"] != planted["audio_word"]).all()
    assert (planted["text_word"] != planted["vision_word"]).all()
    assert len(np.unique(planted["audio_word"])) > 8


def test_channels_beyond_sixteen_repeat():
    split = synthetic.make("sims", sizes=(3, 1, 1), text_features=False)["train"]
    vision = split["vision"]
    np.testing.assert_array_equal(vision, vision[..., np.arange(709) % 16])


@pytest.mark.parametrize("dataset", LEXICONS)
def test_planted_truth_matches_what_the_arrays_show(dataset):
    spec = synthetic.DATASETS[dataset]
    data = synthetic.make(dataset, sizes=(400, 1, 1), dims=(2, 8, 8), text_features=False)
    split, lexicon = data["train"], LEXICONS[dataset]
    planted, rows = split["planted"], np.arange(400)
    scale = np.array(synthetic.Structure().shares) * spec.label_range
    text, names = read_text(split, lexicon)
    np.testing.assert_allclose(text * scale[0], planted["text_part"])
    total = planted["text_part"] + planted["audio_part"] + planted["vision_part"]
    np.testing.assert_allclose(spec.quantise(total), split["regression_labels"], atol=1e-6)
    signs = gate_signs(planted["gate"])
    for i, name in enumerate(("audio", "vision")):
        marker = names[rows, planted[f"{name}_word"]]
        assert np.isin(marker[signs[:, i] < 0], lexicon.inverted).all()
        assert np.isin(marker[signs[:, i] > 0], lexicon.straight).all()
        amplitude, _ = read_cue(split, spec, name, synthetic.Structure().lag[i])
        part = planted[f"{name}_part"]
        assert np.abs(amplitude * signs[:, i] * scale[i + 1] - part).std() < 0.2 * scale[i + 1]
        assert np.isin(np.round(part / scale[i + 1], 6), np.round(CUE_LEVELS, 6)).all()
    assert [" ".join(r).split(" [SEP]")[0].replace(" ", lexicon.separator) for r in names] == split[
        "raw_text"
    ].tolist()
    if spec.unimodal:
        for letter, name in zip("TAV", ("text", "audio", "vision"), strict=True):
            np.testing.assert_allclose(
                split[f"regression_labels_{letter}"], planted[f"{name}_part"], atol=1e-6
            )


@pytest.mark.parametrize(("conflict", "gated"), [(0.0, 1.0), (0.2, 0.3), (1.0, 0.0)])
def test_fractions_of_conflict_and_of_gated_samples_are_exact(conflict, gated):
    data = synthetic.make("mosi", conflict=conflict, gated=gated, **{**TINY, "sizes": (50, 10, 10)})
    for split in data.values():
        planted = split["planted"]
        nonverbal = planted["audio_part"] + planted["vision_part"]
        np.testing.assert_array_equal(planted["text_part"] * nonverbal < 0, planted["conflict"])
        assert planted["conflict"].mean() == pytest.approx(conflict)
        assert (planted["gate"] > 0).mean() == pytest.approx(gated)


@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
def test_three_modalities_reach_more_than_two_and_two_more_than_one(dataset):
    table = synthetic.achievable(dataset, samples=2000)
    one, two = ["text", "audio", "vision"], ["text+audio", "text+vision", "audio+vision"]
    three = table.loc["text+audio+vision"]
    assert three.mae < 0.3 * table.mae[two].min()
    assert three.mae < 0.7 * table.mae["text+audio+vision, unaligned"]
    assert three["corr"] > 0.98
    for pair in two:
        for single in pair.split("+"):
            assert table.mae[pair] < 0.9 * table.mae[single]
            assert table["corr"][pair] > table["corr"][single] + 0.05
    assert table.mae[one].max() < table.mae["none"]
    assert np.isnan(table["corr"]["none"])


def test_a_learner_on_what_each_subset_shows_reaches_its_optimum_and_no_more():
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import RidgeCV

    spec = synthetic.resolve_spec("mosi", **SMALL)
    data = synthetic.make("mosi", sizes=(3000, 1, 3000), text_features=False, **SMALL)
    best = synthetic.achievable("mosi", **SMALL)
    train, test = (decode(data[s], "mosi", spec) for s in ("train", "test"))
    y, truth = (data[s]["regression_labels"] for s in ("train", "test"))
    for subset, x in train.items():
        learner = HistGradientBoostingRegressor(loss="absolute_error", random_state=0)
        mae = np.abs(learner.fit(x, y).predict(test[subset]) - truth).mean()
        corr = np.corrcoef(RidgeCV().fit(x, y).predict(test[subset]), truth)[0, 1]
        # 4 %: three standard errors of the learner's and the table's samples together.
        assert 0.96 * best.mae[subset] < mae < 1.1 * best.mae[subset] + 0.06, subset
        assert corr < best["corr"][subset] + 0.03, subset
        if "unaligned" not in subset:  # whose optimum is far from linear
            assert corr > best["corr"][subset] - 0.04, subset


def test_built_in_ids_fit_the_tiny_encoder(tmp_path):
    from transformers import AutoModel, AutoTokenizer

    folder = synthetic.write_tiny_encoder(tmp_path / "encoder", hidden=16, layers=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)
    assert model.config.vocab_size == len(synthetic.vocabulary())
    assert model.config.hidden_size == 16
    for dataset in ("mosi", "sims"):
        ours = synthetic.make(dataset, **TINY)
        for given in (tokenizer, str(folder)):
            assert equal(ours, synthetic.make(dataset, tokenizer=given, **TINY))


def test_tiny_encoder_is_the_same_for_the_same_seed_and_leaves_the_random_state(tmp_path):
    import torch

    before = torch.random.get_rng_state()
    for name in ("a", "b"):
        synthetic.write_tiny_encoder(tmp_path / name, hidden=8, layers=1, seed=5)
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]
    with pytest.raises(ConfigError, match="multiple of 8"):
        synthetic.write_tiny_encoder(tmp_path, hidden=12)


def test_every_word_is_one_wordpiece_of_bert(real_data):
    for lexicon, name in ((ENGLISH, "bert-base-uncased"), (CHINESE, "bert-base-chinese")):
        known = set((real_data / "vocab" / f"{name}_vocab.txt").read_text("utf-8").split("\n"))
        assert set(lexicon.words) <= known
        assert len(set(lexicon.words)) == len(lexicon.words)


def test_write_is_atomic(tmp_path, monkeypatch):
    path = synthetic.write(tmp_path / "data.pkl", "mosi", **TINY)
    with path.open("rb") as file:
        written = pickle.load(file)
    assert written.pop("recipe").keys() == {"text", "audio", "vision"}
    assert equal(written, synthetic.make("mosi", **TINY))
    content = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(synthetic.pickle, "dump", fail)
    with pytest.raises(OSError, match="disk full"):
        synthetic.write(path, "mosi", **TINY)
    assert [p.name for p in tmp_path.iterdir()] == ["data.pkl"]
    assert path.read_bytes() == content


def write_csv(path, **changes):
    rows = {
        "id": ["a", "b", "c", "d"],
        "split": ["train", "train", "valid", "test"],
        "text": ["so good", "no, I would not", "fine", "null"],
        "label": ["2.4", "-1.8", "0", "1.25"],
        **changes,
    }
    pd.DataFrame({k: v for k, v in rows.items() if v is not None}).to_csv(path, index=False)
    return path


def test_transcripts_are_kept(tmp_path):
    path = write_csv(tmp_path / "t.csv")
    texts = pd.read_csv(path, keep_default_na=False)["text"]
    folder = synthetic.write_tiny_encoder(tmp_path / "encoder", hidden=8, layers=1, texts=texts)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = synthetic.make("mosi", transcripts=path, tokenizer=tokenizer, **SMALL)
    assert data["train"]["raw_text"].tolist() == ["so good", "no, I would not"]
    assert data["train"]["id"] == ["a", "b"]
    assert data["test"]["raw_text"].tolist() == ["null"]
    np.testing.assert_allclose(data["train"]["regression_labels"], [2.4, -1.8])
    np.testing.assert_allclose(data["test"]["regression_labels"], [1.25])
    assert tokenizer.unk_token_id not in data["train"]["text_bert"][:, 0]
    with pytest.raises(ConfigError, match="tokenizer='minilm'"):
        synthetic.make("mosi", transcripts=path, **SMALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, r"columns \['label'\]"),
        ({"label": ["1", "", "x", "2"]}, r"column 'label'.*2 row\(s\): \[2, 3\]"),
        ({"label": ["1", "nan", "0", "3.5"]}, r"column 'label'.*\[2, 4\]"),
        ({"id": ["a", "b", "a", "d"]}, r"column 'id' repeats.*\[3\]"),
        ({"split": ["train", "dev", "valid", "test"]}, r"column 'split'.*\[2\]"),
        ({"split": ["train", "train", "train", "test"]}, "no row has split 'valid'"),
        ({"text": ["a", " ", "c", "d"]}, r"column 'text' is empty.*\[2\]"),
    ],
)
def test_bad_transcripts_are_refused(tmp_path, changes, message):
    path = write_csv(tmp_path / "t.csv", **changes)
    with pytest.raises(FeatureFileError, match=message) as error:
        synthetic.make("mosi", transcripts=path, tokenizer="unused")
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00\x81"])
def test_unreadable_transcripts_are_refused(tmp_path, content):
    path = tmp_path / "t.csv"
    if content:
        path.write_bytes(content)
    with pytest.raises(FeatureFileError, match=path.name):
        synthetic.make("mosi", transcripts=path, tokenizer="unused")


@pytest.mark.parametrize("dataset", ["mosi", pytest.param("mosei", marks=pytest.mark.slow), "sims"])
def test_real_transcripts(real_data, dataset, tmp_path):
    from transformers import BertTokenizer

    language = "chinese" if dataset == "sims" else "uncased"
    vocab = real_data / "vocab" / f"bert-base-{language}_vocab.txt"
    path = real_data / "transcripts" / f"{dataset}.csv"
    options = {"transcripts": path, "lengths": (50, 60, 50), "dims": (2, 4, 4)}
    data = synthetic.make(
        dataset, tokenizer=BertTokenizer(vocab=str(vocab)), text_features=False, **options
    )
    table = pd.read_csv(path, keep_default_na=False).set_index("id")
    sizes = synthetic.DATASETS[dataset].sizes
    assert tuple(len(s["id"]) for s in data.values()) == sizes
    for name, split in data.items():
        rows = table.loc[split["id"]]
        assert (rows["split"] == name).all()
        assert rows["text"].tolist() == split["raw_text"].tolist()
        np.testing.assert_allclose(rows["label"], split["regression_labels"], atol=1e-6)
        assert (split.get("unimodal_labels") == "copied from M") == (dataset == "sims")
    # Each cue tells something of the label, and both tell more.
    del options["dims"], options["lengths"]
    best = synthetic.achievable(dataset, samples=2000, **options)
    assert best.mae["audio+vision"] < best.mae["audio"] < best.mae["none"]
    planted, labels = data["train"]["planted"], data["train"]["regression_labels"]
    for cue in ("audio_reading", "vision_reading"):
        assert 0.2 < np.corrcoef(planted[cue], labels)[0, 1] < 0.8
    turned = planted["conflict"]
    assert np.corrcoef(planted["audio_reading"][turned], labels[turned])[0, 1] < -0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "iemocap"}, "iemocap.*mosi"),
        ({"sizes": (4, 0, 4)}, "three positive numbers"),
        ({"sizes": (4, 4)}, "three positive numbers"),
        ({"lengths": (12, 9, 24)}, "told apart in time"),
        ({"lengths": (7, 30, 30)}, "at least 8 steps"),
        ({"dims": (8, 1, 8)}, "at least 2"),
        (
            {"conflict": 1.2, "lag": (3, 0), "noise": -1},
            r"(?s)conflict=1\.2.*noise=-1.*lag=\(3, 0\)",
        ),
        ({"gain": 0}, "gain"),
        ({"lag": 1.0}, "lag=1.0"),
        ({"seed": -1}, "seed=-1"),
        ({"shares": (1, 2)}, "shares"),
        ({"conflit": 0.1}, "conflit.*conflict"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        synthetic.make(**arguments)


def test_official_sizes():
    data = synthetic.make("sims", sizes="official", dims=(2, 2, 2), text_features=False)
    assert [len(s["id"]) for s in data.values()] == [1368, 456, 457]
