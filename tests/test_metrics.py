import numpy as np
import pytest
import torch

from MMSA_ext.datasets import get_dataset
from MMSA_ext.metrics import metrics_of
from MMSA_ext.mmsa_bridge.stock import metrics as mmsa_metrics


def samples(dataset, seed, n=60):
    """Labels of the data set's kind, on class borders too, and predictions beyond the range."""
    rng = np.random.default_rng(seed)
    if dataset == "sims":
        labels = rng.integers(-10, 11, n) / 10
        predictions = np.concatenate([rng.uniform(-1.5, 1.5, n - 5), [0.0, 0.1, -0.1, 0.7, -0.7]])
    else:
        labels = rng.integers(-9, 10, n) / 3
        predictions = np.concatenate([rng.uniform(-4, 4, n - 4), [0.0, 0.5, 1.5, -2.5]])
    # As the store keeps them: single precision, widened.
    return predictions.astype(np.float32).astype(float), labels.astype(np.float32).astype(float)


@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
def test_they_are_mmsas(dataset):
    for seed in range(20):
        predictions, labels = samples(dataset, seed)
        expected = mmsa_metrics(dataset)(
            torch.tensor(predictions, dtype=torch.float32),
            torch.tensor(labels, dtype=torch.float32),
        )
        known = metrics_of(get_dataset(dataset))
        ours = {name: function(predictions, labels) for name, function in known.items()}
        assert list(ours) == list(expected)
        for name, value in expected.items():
            assert float(ours[name]) == pytest.approx(value, abs=6e-5), name


@pytest.mark.parametrize("dataset", ["mosi", "sims"])
def test_a_class_that_does_not_occur_counts_nothing(dataset):
    predictions, labels = np.array([0.3, 0.6, 0.9]), np.array([0.4, 0.5, 0.8])
    expected = mmsa_metrics(dataset)(torch.tensor(predictions), torch.tensor(labels))
    for name, function in metrics_of(get_dataset(dataset)).items():
        assert float(function(predictions, labels)) == pytest.approx(expected[name], abs=6e-5)


@pytest.mark.parametrize("dataset", ["mosi", "sims"])
def test_resamples_are_scored_one_by_one(dataset):
    predictions, labels = samples(dataset, 0)
    drawn = np.random.default_rng(1).integers(0, len(labels), (7, 2, 40))
    for function in metrics_of(get_dataset(dataset)).values():
        together = function(predictions[drawn], labels[drawn])
        assert together.shape == (7, 2)
        alone = function(predictions[drawn[3, 1]], labels[drawn[3, 1]])
        assert together[3, 1] == pytest.approx(float(alone))


def test_without_a_label_but_zero_the_binary_metrics_are_undefined():
    zeros, ones = np.zeros(4), np.ones(4)
    known = metrics_of(get_dataset("mosi"))
    assert np.isnan(known["Non0_acc_2"](ones, zeros))
    assert np.isnan(known["Non0_F1_score"](ones, zeros))
