"""Loading a checkpoint together with samples."""

import numpy as np
import pytest
import torch

from MMSA_ext import predict_file
from MMSA_ext.errors import CheckpointError
from MMSA_ext.explain.trained_model import load_trained, prediction

MODELS = ["dashfusion", "text_only", "self_mm", "self_mm_infoenh", "misa", "mmim", "lf_dnn"]


@pytest.mark.parametrize("model", MODELS)
def test_the_samples_are_scored_as_predict_scores_them(model, explained, checkpoint, planted_file):
    trained = explained(model)
    whole = predict_file(checkpoint(model), planted_file, gpu_ids="cpu")
    want = whole[whole["split"] == "test"]
    assert trained.samples["id"].tolist() == want["id"].tolist()
    np.testing.assert_allclose(trained.samples["prediction"], want["prediction"], atol=1e-5)
    np.testing.assert_allclose(trained.samples["label"], want["label"])


@pytest.mark.parametrize("model", MODELS)
def test_the_calls_give_the_predictions_again_in_any_order(model, explained):
    trained = explained(model)
    assert [row for call in trained.calls for row in call.rows] == list(range(8))
    call = trained.calls[0]
    rows = torch.tensor([2, 0, 2])
    with torch.no_grad():
        again = prediction(trained.network(*call.take(rows)), model)
    want = trained.samples["prediction"].to_numpy()[rows.numpy()]
    np.testing.assert_allclose(again.numpy(), want, atol=1e-5)
    assert not trained.network.training


def test_samples_by_id(checkpoint, planted_file):
    trained = load_trained(
        checkpoint("self_mm"), planted_file, ids=["test$_$5", "valid$_$1"], gpu_ids="cpu"
    )
    assert trained.samples[["split", "id"]].to_numpy().tolist() == [
        ["valid", "valid$_$1"],
        ["test", "test$_$5"],
    ]
    assert trained.samples["text"].tolist() == ["word1 word2", "word5 word6"]


def test_weights_that_do_not_fit_are_refused(checkpoint, planted_file):
    with pytest.raises(CheckpointError, match="do not fit dashfusion"):
        load_trained(checkpoint("dashfusion"), planted_file, overrides={"dim": 32}, gpu_ids="cpu")


def test_a_model_without_the_usual_prediction_is_refused():
    with pytest.raises(CheckpointError, match="mfm returns its prediction in a form of its own"):
        prediction((torch.zeros(2, 1),), "mfm")
