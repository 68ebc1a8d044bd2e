"""Samples, training steps and tiny models that the models' tests share."""

import numpy as np
import pytest
import torch

from MMSA_ext.config.resolve import resolve
from MMSA_ext.data.feature_set import FeatureSplit
from MMSA_ext.data.retrieval import ContrastSets
from MMSA_ext.models.contract import Inputs, StepBatch
from MMSA_ext.registry import get_model
from tests.conftest import TINY_SHAPES, make_feature_data, tiny_config


def make_split(dataset: str = "mosi") -> FeatureSplit:
    """12 ragged training samples; the first is as long as all modalities can be."""
    train = make_feature_data(dataset=dataset)["train"]
    names = {"M": "regression_labels"} | {n: f"regression_labels_{n}" for n in "TAV"}
    return FeatureSplit(
        name="train",
        ids=train["id"],
        raw_text=list(train["raw_text"]),
        text_bert=train["text_bert"],
        text=None,
        audio=train["audio"],
        vision=train["vision"],
        audio_lengths=np.array(train["audio_lengths"]),
        vision_lengths=np.array(train["vision_lengths"]),
        labels={name: train[key] for name, key in names.items() if key in train},
    )


@pytest.fixture(scope="module")
def dataset() -> FeatureSplit:
    return make_split()


def make_step(split: FeatureSplit, rows=range(5)) -> StepBatch:
    """A step without retrieval: every sample is an anchor."""
    batch = split.batch(torch.tensor(list(rows)))
    return StepBatch(batch, torch.arange(len(batch["id"])), None)


def contrast_step(split: FeatureSplit) -> StepBatch:
    """All samples; five of them are anchors, with retrieved samples, of which some are absent."""
    generator = torch.Generator().manual_seed(0)
    absent = [False] * 4
    sets = ContrastSets(
        torch.randint(0, 12, (5, 2), generator=generator),
        torch.tensor([[True, True], [True, False], [True, True], absent[:2], absent[:2]]),
        torch.randint(0, 12, (5, 4), generator=generator),
        torch.tensor([[True] * 4, [True] * 4, [True, False, True, False], [True] * 4, absent]),
    )
    return StepBatch(split.batch(torch.arange(12)), torch.tensor([0, 3, 5, 7, 9]), sets)


def outputs(model, batch) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return model(Inputs.of(batch))


def with_garbage(batch: dict) -> dict:
    """The batch with other words and frames where a mask says that there are none."""
    text = batch["text"].clone()
    text[:, 0].masked_fill_(text[:, 1] == 0, 7)
    frames = {
        m: batch[m].masked_fill(~batch[f"{m}_mask"].unsqueeze(-1), 50.0)
        for m in ("audio", "vision")
    }
    return batch | frames | {"text": text}


@pytest.fixture
def tiny_model(tiny_encoder):
    """Build a tiny model in evaluation mode; what is drawn next does not depend on its size."""

    def build(name, data="mosi", **overrides):
        torch.manual_seed(0)
        settings = tiny_config(name, tiny_encoder, **TINY_SHAPES) | overrides
        model = get_model(name).build(resolve(name, data, "", settings))
        torch.manual_seed(1)
        return model.eval()

    return build
