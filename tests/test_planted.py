"""On data of known structure DashFusion uses all three modalities; the control cannot."""

import pytest

from MMSA_ext import MMSA_run
from MMSA_ext.data.synthetic import achievable, write, write_tiny_encoder

LENGTHS = (16, 24, 20)
TRAINING = {
    "dim": 32, "num_epochs": 15, "learning_rate": 2e-3,
}  # fmt: skip
SHAPE = {"heads": 4, "feed_forward_dim": 64, "encoder_layers": 1}


pytestmark = pytest.mark.slow  # two minutes; tests/models/test_all_models.py learns in seconds


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """Test MAE of both models, trained from scratch on 600 samples."""
    folder = tmp_path_factory.mktemp("planted")
    encoder = write_tiny_encoder(folder / "encoder")
    write(folder / "mosi.pkl", "mosi", sizes=(600, 100, 200), lengths=LENGTHS)
    config = TRAINING | {"featurePath": str(folder / "mosi.pkl"), "pretrained": str(encoder)}
    return {
        model: MMSA_run(
            model, "mosi", config=config | more, seeds=[1], verbose_level=0,
            model_save_dir=folder, res_save_dir=folder, log_dir=folder,
        ).seeds[0].metrics["MAE"]
        for model, more in (("text_only", {}), ("dashfusion", SHAPE))
    }  # fmt: skip


def test_dashfusion_beats_the_best_possible_text_model(scores):
    """0.60 was seen, against 0.70 that no model of the text alone can beat."""
    optimum = achievable("mosi", lengths=LENGTHS)["mae"]
    assert scores["dashfusion"] < optimum["text"] - 0.05


def test_dashfusion_beats_the_control_and_the_mean(scores):
    optimum = achievable("mosi", lengths=LENGTHS)["mae"]
    assert scores["dashfusion"] < scores["text_only"] - 0.08
    assert scores["dashfusion"] < 0.5 * optimum["none"]


def test_the_control_learns_the_text_and_no_more(scores):
    optimum = achievable("mosi", lengths=LENGTHS)["mae"]
    assert optimum["text"] - 0.05 < scores["text_only"] < optimum["text"] + 0.15
