"""Stage one: cache by content, the same stage two with and without it, recipes, labels."""

import logging
import pickle

import pytest
import torch

from MMSA_ext.data.features import read_features
from MMSA_ext.data.loader import make_loaders
from MMSA_ext.errors import TrainingDivergedError
from MMSA_ext.models.contract import core_model
from MMSA_ext.training.stage_one import TwoStageTrainer
from tests.conftest import make_feature_data

SHORT = {
    modality: {"epochs": 2, "batch_size": 6, "warmup_ratio": 0.0}
    for modality in ("text", "audio", "vision")
}


@pytest.fixture
def run(feature_file, setting):
    """Train both stages; the cache lies in `tmp_path / "stage_one"`."""

    def train(name="confede", data="mosi", content=None, **overrides):
        feature_file.write_bytes(pickle.dumps(content or make_feature_data(dataset=data)))
        short = {"stage_one": SHORT, "num_epochs": 1, "dim": 16}
        args, model, loaders = setting(name, data, **short | overrides)
        trainer = TwoStageTrainer(args)
        trainer.do_train(model, loaders)
        return trainer, core_model(model)

    return train


@pytest.fixture
def files(tmp_path):
    return lambda: {path.name for path in (tmp_path / "stage_one").iterdir()}


def assert_same_weights(first, second):
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


def test_a_found_stage_one_gives_the_same_stage_two(run, files, monkeypatch):
    first_trainer, first = run()
    assert {name.split("-")[0] for name in files()} == {"text", "audio", "vision"}
    monkeypatch.setattr(TwoStageTrainer, "_train_alone", None)  # would fail if it were called
    second_trainer, second = run()
    assert_same_weights(first, second)
    assert first_trainer.history.notes == second_trainer.history.notes
    losses = [t.history.epochs[-1]["train"]["Loss"] for t in (first_trainer, second_trainer)]
    assert losses[0] == losses[1]


def test_the_model_starts_stage_two_from_the_kept_encoders(run, files, tmp_path):
    _, model = run()
    for name in files():
        content = torch.load(tmp_path / "stage_one" / name, weights_only=True)
        encoder = getattr(model, f"{name.split('-')[0]}_encoder")
        assert content["state_dict"].keys() == encoder.state_dict().keys()
        if name.startswith("text"):  # the others are trained further
            for key, value in encoder.state_dict().items():
                assert torch.equal(value, content["state_dict"][key]), key


def test_what_stage_one_does_not_read_shares_its_encoders(run, files):
    run()
    before = files()
    run("confede_infoenh")
    run(contrast_weight=0.0, learning_rate=1e-4, batch_size=3, retrieval="rank_position")
    assert files() == before


def test_without_infoenh_both_stages_are_those_of_confede(run):
    host_trainer, host = run(num_epochs=2)
    trainer, variant = run("confede_infoenh", infoenh=None, num_epochs=2)
    assert host.state_dict().keys() == variant.state_dict().keys()
    assert_same_weights(host, variant)
    for mine, its in zip(trainer.history.epochs, host_trainer.history.epochs, strict=True):
        assert mine.get("train") == its.get("train")
        assert mine["valid"] == its["valid"]


@pytest.mark.parametrize(
    ("change", "new"),
    [
        ({"seed": 1}, {"text", "audio", "vision"}),
        ({"heads": 2}, {"audio", "vision"}),
        ({"text_pooling": "first"}, {"text"}),
        ({"stage_one": SHORT | {"audio": SHORT["audio"] | {"epochs": 3}}}, {"audio"}),
        ({"stage_one": SHORT | {"text": SHORT["text"] | {"decay_all": False}}}, {"text"}),
    ],
)
def test_what_stage_one_reads_makes_encoders_of_their_own(run, files, change, new):
    run()
    before = files()
    run(**change)
    assert {name.split("-")[0] for name in files() - before} == new


def test_each_encoder_depends_on_the_data_of_its_modality_alone(run, files):
    content = make_feature_data()
    run(content=content)
    before = files()
    content["valid"]["vision"] = content["valid"]["vision"] * 2
    content["test"]["audio"] = content["test"]["audio"] * 2
    run(content=content)
    assert {name.split("-")[0] for name in files() - before} == {"vision"}
    before = files()
    content["train"]["regression_labels"] = content["train"]["regression_labels"][::-1].copy()
    run(content=content)
    assert {name.split("-")[0] for name in files() - before} == {"text", "audio", "vision"}


@pytest.mark.parametrize("damage", ["cut", "foreign", "incomplete", "flipped", "of another"])
def test_a_damaged_file_is_computed_again(run, tmp_path, caplog, damage):
    _, first = run()
    path = next((tmp_path / "stage_one").glob("audio-*"))
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:200])
    elif damage == "foreign":
        path.write_bytes(pickle.dumps(print))
    elif damage == "flipped":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif damage == "of another":
        other = next((tmp_path / "stage_one").glob("vision-*"))
        path.write_bytes(other.read_bytes())
    else:
        content = torch.load(path, weights_only=True)
        content["state_dict"].popitem()
        torch.save(content, path)
    with caplog.at_level(logging.WARNING, "MMSA"):
        _, second = run()
    assert ("is of another encoder" if damage == "of another" else "is damaged") in caplog.text
    assert_same_weights(first, second)
    assert torch.load(path, weights_only=True)["epoch"] >= 1


def test_a_folder_that_cannot_be_written_costs_the_cache_alone(run, tmp_path, caplog):
    (tmp_path / "stage_one").write_text("in the way")
    with caplog.at_level(logging.WARNING, "MMSA"):
        trainer, _ = run()
    assert "cannot be written" in caplog.text
    assert trainer.history.chosen_epoch == 1


def test_without_stage_one_nothing_is_trained_before(run, tmp_path):
    trainer, _ = run(stage_one=None)
    assert not (tmp_path / "stage_one").exists()
    assert trainer.history.notes == []


def test_no_files_are_left_beside_the_cache(run, tmp_path):
    run()
    assert {path.name for path in tmp_path.iterdir() if "weights" in path.name} == {"weights.pth"}


def test_unimodal_labels_are_predicted_where_the_file_has_them(run):
    trainer, _ = run(data="sims")
    assert [note.split(":")[0] for note in trainer.history.notes if "stage one" in note] == [
        "stage one, text on label T",
        "stage one, audio on label A",
        "stage one, vision on label V",
    ]
    content = make_feature_data(dataset="sims")
    for split in content.values():
        del split["regression_labels_A"]
    trainer, _ = run(data="sims", content=content)
    assert any(note.startswith("stage one, audio on label M") for note in trainer.history.notes)
    assert any("no unimodal labels A" in note for note in trainer.history.notes)


def test_the_epoch_with_the_lowest_validation_mae_is_kept_however_bad(run):
    still = {m: recipe | {"learning_rate": 1e-30, "epochs": 3} for m, recipe in SHORT.items()}
    trainer, _ = run(stage_one=still)
    assert "in epoch 2 of 3" in trainer.history.notes[0]  # text: not before a third is over
    assert "in epoch 1 of 3" in trainer.history.notes[1]


def test_divergence_names_the_encoder(run):
    wild = SHORT | {"audio": SHORT["audio"] | {"learning_rate": 1e30, "epochs": 5}}
    with pytest.raises(TrainingDivergedError, match="stage one, audio: "):
        run(stage_one=wild)


def task(run, modality, **overrides):
    trainer, model = run(**overrides)
    found = next(task for task in model.stage_one() if task.modality == modality)
    return trainer, found, found.build()


@pytest.mark.parametrize(("finetuning", "layers"), [("all", {"0", "1"}), ("last_layer", {"1"})])
def test_text_is_frozen_first_and_then_tuned(run, finetuning, layers):
    text = SHORT["text"] | {"finetuning": finetuning}
    _, _, model = task(run, "text", stage_one=SHORT | {"text": text}, text_pooling="pooler")

    def trained():
        return {n for n, p in model.named_parameters() if p.requires_grad}

    tuned = trained()
    model.begin_epoch(3, 9)
    assert trained() == {n for n in tuned if n.startswith("head.")}
    model.begin_epoch(4, 9)
    assert trained() == tuned
    assert {n.split(".")[4] for n in tuned if ".encoder.layer." in n} == layers
    outside = {n for n in tuned if n.startswith("encoder.") and ".encoder.layer." not in n}
    assert any("pooler" in n for n in outside) == (finetuning == "all")


def test_optimizers_are_those_of_the_recipes(run):
    from MMSA_ext.training.stage_one import _EncoderTrainer

    recipes = SHORT | {"vision": SHORT["vision"] | {"optimizer": "adamw", "weight_decay": 0.5}}
    trainer, model = run(stage_one=recipes)
    made = {}
    for found in model.stage_one():
        alone = _EncoderTrainer(trainer, found, trainer.args.model_save_path)
        made[found.modality] = alone.make_optimizer(found.build())
    assert type(made["text"]) is type(made["vision"]) is torch.optim.AdamW
    assert type(made["audio"]) is torch.optim.Adam
    assert made["audio"].defaults["amsgrad"]
    assert made["audio"].defaults["weight_decay"] == 1e-3
    assert {group["weight_decay"] for group in made["vision"].param_groups} == {0.5, 0.0}
    # Text decays in everything; of AdamW's other encoders only biases are spared, norms are not.
    assert [group["weight_decay"] for group in made["text"].param_groups] == [1e-3]
    spared = made["vision"].param_groups[1]["params"]
    vision = next(found for found in model.stage_one() if found.modality == "vision").build()
    biases = [p for name, p in vision.named_parameters() if name.endswith("bias")]
    assert [p.shape for p in spared] == [p.shape for p in biases]


def test_a_model_without_encoders_to_train_is_refused(run, feature_file, tmp_path):
    trainer, model = run()
    loaders = make_loaders(read_features(feature_file, "mosi"), 4, 4)
    alone = model.stage_one()[0].build()
    with pytest.raises(TypeError, match="TextModel is no TwoStageModel"):
        trainer.do_train(alone, loaders)
