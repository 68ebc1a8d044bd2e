"""Shared models score as their checkpoints do, anywhere; their cards say what was measured."""

import json
import pickle
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from MMSA_ext import (
    MMSA_run,
    Scorer,
    load_model,
    predict_file,
    save_pretrained,
    unregister_model,
)
from MMSA_ext.errors import CheckpointError, ConfigError, FeatureFileError, TextEncoderError
from MMSA_ext.explain.trained_model import load_trained
from MMSA_ext.own_models import import_modules
from MMSA_ext.runs.model_card import citations, model_card
from MMSA_ext.training import model_folder
from MMSA_ext.training.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import OWN_MODEL, make_feature_data, tiny_config, train
from tests.models.hosts.variants import VARIANTS
from tests.models.untrained import OWN, STOCK, untrained_checkpoint

QUICK = {"dashfusion", "confede_infoenh", "bert_mag", "tfr_net", "lf_dnn", "self_mm_infoenh"}


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in (*OWN, *STOCK, *VARIANTS)
    ],
)
def test_every_model_scores_the_same_bit_for_bit(name, tmp_path, tiny_encoder):
    """From its checkpoint, and from the folder alone, elsewhere, without its text encoder."""
    here, there = tmp_path / "here", tmp_path / "there" / "model"
    encoder = shutil.copytree(tiny_encoder, here / "encoder")
    checkpoint, features = untrained_checkpoint(name, here, encoder)
    save_checkpoint(here / "c.pth", checkpoint)
    want = predict_file(here / "c.pth", features, gpu_ids="cpu")
    save_pretrained(here / "c.pth", here / "model", results=tmp_path)
    there.parent.mkdir()
    (here / "model").rename(there)
    features = features.rename(tmp_path / "features.pkl")
    shutil.rmtree(here)
    found = predict_file(there, features, gpu_ids="cpu")
    np.testing.assert_array_equal(found.prediction, want.prediction)
    assert found.prediction.nunique() > 1
    for path in (there / "config.json", there / "README.md"):
        assert str(tmp_path) not in path.read_text()
    assert f"# {name} on CMU-MOSI" in (there / "README.md").read_text()


@pytest.fixture(scope="module")
def shared(tmp_path_factory, tiny_encoder):
    """A model of two seeds on texts, and its folder; the encoder that it is of is gone."""
    base = tmp_path_factory.mktemp("shared")
    encoder = shutil.copytree(tiny_encoder, base / "secret-place" / "tiny")
    features = base / "features.pkl"
    made = {"text": {"name": "tiny", "version": "1", "max_length": 10}}
    features.write_bytes(pickle.dumps(make_feature_data((12, 8, 10)) | {"recipe": made}))
    config = tiny_config("text_only", encoder, num_epochs=1)
    folders = dict.fromkeys(("model_save_dir", "res_save_dir", "log_dir"), base / "results")
    results = MMSA_run(
        "text_only", "mosi", config=config, custom_feature=features, seeds=[1, 2],
        gpu_ids="cpu", num_workers=0, verbose_level=0, **folders,
    )  # fmt: skip
    first = results.seeds[0]
    texts = {"raw_text": ["word1 word7", "word9 word3 word3"]}
    want = Scorer(first.checkpoint, gpu_ids="cpu")(texts)["prediction"]
    save_pretrained(first.checkpoint, base / "model", results=base / "results", license="mit")
    (base / "secret-place").rename(base / "gone")
    return SimpleNamespace(
        **{"base": base, "folder": base / "model", "features": features, "results": results},
        **{"checkpoint": first.checkpoint, "texts": texts, "want": want, "encoder": base / "gone"},
    )


class TestTheFolderAlone:
    def test_raw_texts(self, shared):
        scorer = Scorer.from_pretrained(shared.folder, gpu_ids="cpu")
        np.testing.assert_array_equal(scorer(shared.texts)["prediction"], shared.want)
        with pytest.raises(TextEncoderError):  # what the checkpoint names is gone
            Scorer(shared.checkpoint, gpu_ids="cpu")(shared.texts)

    def test_the_network(self, shared):
        network = load_model(shared.folder, gpu_ids="cpu")
        weights = load_checkpoint(shared.checkpoint).state_dict
        for name, value in network.state_dict().items():
            assert torch.equal(value, weights[f"Model.{name}"])

    def test_pickled_scorers_know_it_again_where_it_was_moved(self, shared, tmp_path):
        scorer = Scorer(shared.folder, gpu_ids="cpu")
        again = pickle.loads(pickle.dumps(scorer))
        np.testing.assert_array_equal(again(shared.texts)["prediction"], shared.want)
        moved = shutil.copytree(shared.folder, tmp_path / "moved")
        assert Scorer(moved).digest == scorer.digest

    def test_explanations(self, shared):
        trained = load_trained(shared.folder, shared.features, gpu_ids="cpu", limit=3)
        want = predict_file(shared.folder, shared.features, gpu_ids="cpu").set_index("id")
        np.testing.assert_allclose(
            trained.samples.prediction, want.prediction[trained.samples.id], atol=1e-5
        )

    def test_its_recipe_is_compared(self, shared, tmp_path):
        other = tmp_path / "other.pkl"
        made = {"text": {"name": "another", "version": "1"}}
        other.write_bytes(pickle.dumps(make_feature_data((2, 2, 2)) | {"recipe": made}))
        with pytest.raises(FeatureFileError, match="of another recipe"):
            predict_file(shared.folder, other)

    def test_it_is_copied_whole(self, shared, tmp_path):
        copied = Scorer(shared.folder).save_pretrained(tmp_path / "again")
        for name in model_folder.files(shared.folder):
            assert (copied / name).read_bytes() == (shared.folder / name).read_bytes()
        with pytest.raises(ConfigError, match="is a finished folder"):
            save_pretrained(shared.folder, tmp_path / "more", license="mit")


WRONG = {
    "its weights do not fit text_only as configured: .* is missing": lambda c: replace(
        c, state_dict=dict(list(c.state_dict.items())[1:])
    ),
    r"is float32 \[2, 64, 16\], not": lambda c: replace(
        c,
        state_dict={
            k: torch.zeros(2, 64, 16) if "word_embeddings" in k else v
            for k, v in c.state_dict.items()
        },
    ),
    "holds values that are not finite": lambda c: replace(
        c,
        state_dict={
            k: v * float("nan") if "word_embeddings" in k else v for k, v in c.state_dict.items()
        },
    ),
    "unknown model 'nobodys'.*--import MODULE": lambda c: replace(
        c, config=c.config | {"model_name": "nobodys"}
    ),
    "its configuration cannot be used: it lacks seq_lens": lambda c: replace(
        c, config={k: v for k, v in c.config.items() if k != "seq_lens"}
    ),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_stranger_s_folder_that_does_not_fit_together(shared, tmp_path, said):
    checkpoint, encoder = model_folder.read(shared.folder)
    wrong = WRONG[said](checkpoint)
    model_folder.write(
        tmp_path / "model", wrong, encoder=encoder, about={}, card=lambda facts: "card"
    )
    with pytest.raises(CheckpointError, match=said) as error:
        _ = load_model(tmp_path / "model", gpu_ids="cpu")
    assert str(tmp_path / "model") in str(error.value)


def test_a_file_of_the_folder_names_the_folder(shared):
    weights = shared.folder / "model.safetensors"
    with pytest.raises(CheckpointError, match=f"give its folder, {shared.folder}"):
        _ = load_model(weights, gpu_ids="cpu")


class TestTheCard:
    @pytest.fixture
    def card(self, shared):
        return ModelCard.load(shared.folder / "README.md")

    def test_its_metadata_are_what_the_hub_reads(self, card, shared):
        data = card.data
        assert (data.language, data.license, data.library_name) == ("en", "mit", "MMSA_ext")
        assert data.pipeline_tag == "text-classification"
        assert {"text_only", "mosi"} < set(data.tags)
        assert data.base_model is None
        metrics = shared.results.seeds[0].metrics
        assert len(data.eval_results) == len(metrics)
        found = {result.metric_name.partition(" (n = ")[0]: result for result in data.eval_results}
        assert found["MAE"].metric_value == metrics["MAE"]
        assert found["MAE"].metric_type == "mae"
        assert found["MAE"].metric_name == "MAE (n = 10, one seed)"
        assert found["Acc-2 (neg/pos)"].metric_value == metrics["Non0_acc_2"]
        assert {result.dataset_split for result in data.eval_results} == {"test"}

    def test_its_text_says_what_was_measured(self, card, shared):
        maes = [seed.metrics["MAE"] for seed in shared.results.seeds]
        record = shared.results.seeds[0].record
        for said in (
            f"{np.mean(maes):.4f} ± {np.std(maes, ddof=1):.4f}",
            "one of 2 seeds",
            "12 train, 8 valid and 10 test samples",
            record.identity.dataset_fingerprint,
            f"Epoch {record.chosen_epoch} was selected: {record.selection}.",
            "tiny 1 (max_length 10)",
            "bert, 16 wide",
            "torch ",
            "| Acc-2 (neg/non-neg) |",
            "scorer({",
            "mit, as whoever made this folder said",
        ):
            assert said in card.text
        assert "secret-place" not in card.content
        assert str(shared.base) not in (shared.folder / "config.json").read_text()

    def test_without_a_record_and_a_licence(self, shared, tmp_path, caplog):
        made = save_pretrained(
            shared.checkpoint,
            tmp_path / "model",
            results=tmp_path,
            overrides={"pretrained": shared.encoder / "tiny"},
        )
        assert "no record of its run" in caplog.text
        card = ModelCard.load(made / "README.md")
        assert card.data.license == "unknown"
        for said in ("one seed", "No run record was at hand", "Not decided. Whoever publishes"):
            assert said in card.text
        assert "has to: the terms of CMU-MOSI and of the text encoder (" in card.text
        assert "12 train samples" in card.text

    def test_diverged_seeds_and_hub_encoders_and_generated_data(self, shared):
        facts = json.loads((shared.folder / "config.json").read_text())
        facts["run"] |= {"diverged": [3], "notes": ["a note"]}
        facts["run"]["seeds"]["2"]["MAE"] = None
        facts["text_encoder"] |= {"hub": "bert-base-uncased"}
        facts["recipe"] = {"text": {"name": "MMSA_ext.data.synthetic", "version": "1"}}
        card = ModelCard(model_card(facts))
        assert "Seeds that diverged and are in no mean: 3." in card.text
        assert "- a note" in card.text
        assert card.data.base_model == "bert-base-uncased"
        assert "**These data are generated.**" in card.text
        assert "The terms of the text encoder (" in card.text  # and of nobody's data
        assert card.data.eval_results[0].dataset_name == "generated data in the form of CMU-MOSI"

    @pytest.mark.parametrize(
        ("model", "cited"),
        [
            ("dashfusion", ["@misc{dashfusion", "Wen et al."]),
            ("self_mm_infoenh", ["@misc{infoenh", "@misc{self_mm", "https://"]),
            ("confede_infoenh", ["@misc{confede", "@misc{infoenh"]),
            ("misa", ["@misc{misa"]),
        ],
    )
    def test_whom_to_cite(self, model, cited):
        text = "\n".join(citations(model, "0.2.0"))
        assert all(part in text for part in cited), text
        assert text.count("@software{MMSA") == 2


class TestWhatIsNotShared:
    @pytest.mark.parametrize("path", ["/home/anna/words.txt", r"C:\Users\anna\words.txt"])
    def test_a_path_of_this_machine(self, shared, tmp_path, path):
        checkpoint, _ = model_folder.read(shared.folder)
        config = checkpoint.config | {"pretrained": str(shared.encoder / "tiny")}
        save_checkpoint(
            tmp_path / "c.pth", replace(checkpoint, config=config | {"a": {"lexicon": [path]}})
        )
        with pytest.raises(
            ConfigError, match=r"a\.lexicon is a path of this machine.*--set a\.lex"
        ):
            save_pretrained(tmp_path / "c.pth", tmp_path / "model", results=tmp_path)
        assert not (tmp_path / "model").exists()

    @pytest.mark.parametrize("license", ["MIT License", "", "-"])
    def test_a_licence_that_is_none(self, shared, tmp_path, license):
        with pytest.raises(ConfigError, match="license is"):
            save_pretrained(shared.checkpoint, tmp_path / "model", license=license)

    def test_an_encoder_that_is_gone(self, shared, tmp_path):
        with pytest.raises(TextEncoderError, match="secret-place"):
            save_pretrained(shared.checkpoint, tmp_path / "model", results=shared.base / "results")


def test_a_model_of_one_s_own_needs_its_module(tmp_path, feature_file):
    """Said in the card, and where the folder is read without it."""
    module = tmp_path / "shared_means.py"
    module.write_text(OWN_MODEL)
    import_modules([str(module)])
    try:
        config = {"num_epochs": 1, "feature_scaling": "standardise"}
        trained = train("means", feature_file, tmp_path / "r", config=config).checkpoint
        made = save_pretrained(trained, tmp_path / "model", results=tmp_path / "r")
        want = predict_file(trained, feature_file)
        np.testing.assert_array_equal(predict_file(made, feature_file).prediction, want.prediction)
    finally:
        unregister_model("means")
    assert "`means` is no part of MMSA_ext" in (made / "README.md").read_text()
    with pytest.raises(CheckpointError, match=r"unknown model 'means'.*--import MODULE"):
        Scorer(made)


class TestOnTheCommandLine:
    def test_share_and_predict(self, shared, tmp_path, typed):
        folder = tmp_path / "model"
        share = f"mmsa-ext share {shared.checkpoint} {folder} --res-save-dir {shared.base}/results"
        share += f" --set pretrained={shared.encoder}/tiny"
        code, said = typed(share)
        assert code == 0
        assert f"written: {folder}" in said
        assert "Read its card before you publish it" in said
        code, said = typed(share)
        assert code == 2
        assert "--overwrite" in said
        code, said = typed(f"mmsa-ext predict {folder} --text 'word1 word7' -g cpu")
        assert code == 0
        assert float(said) == pytest.approx(shared.want[0], rel=1e-5)

    @pytest.mark.parametrize("name", ["owner/name", "hf://owner/name"])
    @pytest.mark.parametrize("command", ["predict", "explain embeddings", "share", "push"])
    def test_a_name_of_the_hub_is_not_downloaded_unasked(self, command, name, typed, feature_file):
        last = {"push": "a/b", "share": "folder"}.get(command, feature_file)
        code, said = typed(f"mmsa-ext {command} {name} {last}")
        assert code == 2
        assert "get it first: `mmsa-ext pull owner/name`" in said

    def test_the_output_of_predict_never_lies_in_the_model(self, shared, typed, feature_file):
        target = shared.folder / "config.json"
        before = target.read_bytes()
        code, said = typed(f"mmsa-ext predict {shared.folder} {feature_file} -o {target}")
        assert code == 2
        assert "is the input" in said
        assert target.read_bytes() == before
