"""Integrated gradients over words and frames."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from easydict import EasyDict
from torch import nn

from MMSA_ext.data import synthetic
from MMSA_ext.data.features import read_features
from MMSA_ext.errors import CheckpointError
from MMSA_ext.explain.attribution import _baseline_frames, attribute
from MMSA_ext.explain.trained_model import Call, TrainedModel, prediction
from MMSA_ext.models.infoenh.bottleneck import FeatureBottleneck
from MMSA_ext.names import MODALITIES

MODELS = ["text_only", "dashfusion", "self_mm", "self_mm_infoenh", "misa", "mmim", "lf_dnn"]
TOLERANCE = 0.01  # of a label that goes from -3 to 3


@pytest.mark.parametrize("model", MODELS)
def test_the_contributions_add_up(model, explained):
    trained = explained(model)
    found = attribute(trained, steps=32)
    table = found.samples.set_index("id")
    np.testing.assert_allclose(table["prediction"], trained.samples["prediction"], atol=1e-5)
    assert table["gap"].abs().max() < TOLERANCE
    sums = found.parts.groupby(["id", "modality"])["attribution"].sum().unstack()
    sums = sums.reindex(columns=MODALITIES, fill_value=0.0)  # what is not read has no row
    for modality in MODALITIES:
        want = table[f"{modality}_sum"]
        np.testing.assert_allclose(sums[modality].loc[want.index], want, atol=1e-5)
    total = table["baseline"] + sums.loc[table.index].sum(axis=1)
    np.testing.assert_allclose(total, table["prediction"], atol=TOLERANCE)
    assert sums["text"].abs().max() > 1e-4


def test_a_modality_that_is_not_read_contributes_nothing(explained):
    found = attribute(explained("text_only"), steps=4)
    assert set(found.parts["modality"]) == {"text"}
    assert not found.samples[["audio_sum", "vision_sum"]].any(axis=None)


def test_a_row_for_every_word_and_valid_frame(explained):
    trained = explained("dashfusion")
    parts = attribute(trained, steps=2).parts
    for _, sample in trained.samples.iterrows():
        own = parts[parts["id"] == sample["id"]].groupby("modality")
        assert len(own.get_group("audio")) == sample["audio_length"]
        assert len(own.get_group("vision")) == sample["vision_length"]
        words = own.get_group("text")["unit"]
        assert len(words) > 0
        assert not {"[CLS]", "[SEP]", "[PAD]"} & set(words)


def test_the_model_is_left_as_it_was(explained):
    trained = explained("self_mm_infoenh")
    parameter = next(trained.network.parameters())
    asked = parameter.requires_grad
    call = trained.calls[0]
    before = prediction(trained.network(*call.inputs), trained.name).detach()
    attribute(trained, steps=2)
    assert parameter.requires_grad == asked
    assert parameter.grad is None
    assert not any("forward" in vars(module) for module in trained.network.modules())
    after = prediction(trained.network(*call.inputs), trained.name).detach()
    torch.testing.assert_close(after, before)


def test_held_selection_is_the_models_own_at_the_sample(explained):
    trained = explained("self_mm_infoenh")
    held, free = (attribute(trained, steps=8, hold_selection=hold) for hold in (True, False))
    np.testing.assert_allclose(held.samples["prediction"], trained.samples["prediction"], atol=1e-6)
    assert set(held.samples["selection"]) == {"held"}
    assert set(free.samples["selection"]) == {"free"}


def test_jumps_of_the_selection_are_in_the_gap(explained):
    """Why the selection is held: where it may change, the sum is wrong however many the steps."""
    trained = explained("self_mm_infoenh")
    gates = [m for m in trained.network.modules() if isinstance(m, FeatureBottleneck)]
    weights = [gate.gate.weight.detach().clone() for gate in gates]
    try:
        with torch.no_grad():
            for gate in gates:  # gates that open and close with the input
                gate.gate.weight.mul_(200)
        held, free = (
            attribute(trained, steps=64, hold_selection=hold).samples["gap"].abs().max()
            for hold in (True, False)
        )
    finally:
        with torch.no_grad():
            for gate, weight in zip(gates, weights, strict=True):
                gate.gate.weight.copy_(weight)
    assert held < free


class Linear(nn.Module):
    """Reads features: the sum of each modality's weighted features."""

    def __init__(self, dims):
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(d, dtype=torch.float32) for d in dims)

    def forward(self, *modalities):
        read = [(x @ w).sum(dim=1) for x, w in zip(modalities, self.weights, strict=True)]
        return {"M": sum(read).unsqueeze(1)}


def by_hand(network, features, split="test"):
    """A network that reads the features of a file, as `load_trained` would give it."""
    part = features.splits[split]
    inputs = tuple(torch.from_numpy(np.array(x)) for x in (part.text, part.audio, part.vision))
    samples = pd.DataFrame(
        {
            "split": split,
            "id": part.ids,
            "label": part.labels["M"].astype(float),
            "text": part.raw_text,
            "audio_length": part.audio_lengths,
            "vision_length": part.vision_lengths,
        }
    )
    calls = (Call(inputs, 0, len(part)),)
    return TrainedModel("linear", network.eval(), EasyDict(), calls, samples, features)


def test_the_mean_frame_is_in_the_units_that_the_model_sees(feature_file):
    features = read_features(feature_file)
    scaled = features.with_scaling(features.fit_scaling())
    frames = _baseline_frames(scaled, "mean")
    assert _baseline_frames(features, "mean")["audio"].abs().max() > 0.01
    for frame in frames.values():  # the mean over training, which scaling makes 0
        torch.testing.assert_close(frame, torch.zeros_like(frame))
    copied = _baseline_frames(features.scaled(features.fit_scaling()), "mean")
    torch.testing.assert_close(copied, frames, atol=1e-5, rtol=0)


def test_a_linear_model_is_attributed_exactly(feature_file):
    torch.manual_seed(0)
    features = read_features(feature_file)
    network = Linear((16, 5, 4))
    part, train = features.splits["test"], features.splits["train"]
    for baseline in ("mean", "zero"):
        found = attribute(by_hand(network, features), steps=2, baseline=baseline)
        valid = np.arange(train.audio.shape[1])[None] < train.audio_lengths[:, None]
        mean = train.audio[valid].mean(axis=0) * (baseline == "mean")
        audio = network.weights[1].detach().numpy()
        for row, name in enumerate(part.ids):
            own = found.parts[(found.parts["id"] == name) & (found.parts["modality"] == "audio")]
            length = part.audio_lengths[row]
            want = (part.audio[row, :length] - mean) @ audio
            np.testing.assert_allclose(own["attribution"], want, atol=1e-4)
    assert found.samples["gap"].abs().max() < 1e-4


class FrameReader(nn.Module):
    """Means over frames of what two small networks say of each."""

    def __init__(self, dims):
        super().__init__()
        self.read = nn.ModuleList(
            nn.Sequential(nn.Linear(d, 16), nn.GELU(), nn.Linear(16, 1)) for d in dims
        )

    def forward(self, text, audio, vision):
        said = [read(x).mean(dim=1) for read, x in zip(self.read, (audio, vision), strict=True)]
        return {"M": 8 * sum(said)}


def test_planted_cue_frames_are_found(tmp_path):
    """Cues are 3 of 20 to 24 frames; the frame of the largest contribution is one of them."""
    dims = (8, 6, 6)
    path = synthetic.write(
        tmp_path / "mosi.pkl", "mosi", sizes=(400, 1, 40), lengths=(16, 24, 20), dims=dims,
        conflict=0.0,
    )  # fmt: skip
    truth = synthetic.make(
        "mosi", sizes=(400, 1, 40), lengths=(16, 24, 20), dims=dims, conflict=0.0
    )["test"]["planted"]
    features = read_features(path)
    torch.manual_seed(0)
    network = FrameReader(dims[1:])
    train = by_hand(network, features, "train")
    labels = torch.from_numpy(features.splits["train"].labels["M"])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(network(*train.calls[0].inputs)["M"].squeeze(1), labels)
        loss.backward()
        optimizer.step()
    parts = attribute(by_hand(network, features), steps=16).parts
    for modality in ("audio", "vision"):
        own = parts[parts["modality"] == modality]
        largest = own.loc[own["attribution"].abs().groupby(own["id"], sort=False).idxmax()]
        first = truth[f"{modality}_frame"]
        cues = synthetic.cue_frames(
            synthetic.DATASETS["mosi"], ("audio", "vision").index(modality) + 1
        )
        hit = (largest["position"].to_numpy() >= first) & (
            largest["position"].to_numpy() < first + cues
        )
        assert hit.mean() > 3 * cues / 22


def test_inputs_of_another_kind_are_refused(explained):
    trained = explained("text_only")
    call = trained.calls[0]
    odd = replace(trained, name="tfr_net", calls=(replace(call, inputs=(call.inputs, None, None)),))
    with pytest.raises(CheckpointError, match="tfr_net is called with inputs of its own kind"):
        attribute(odd)
