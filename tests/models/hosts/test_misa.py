"""InfoEnh reads what MISA discards; frame lengths."""

from functools import partial

import pytest
import torch

from MMSA_ext import mmsa_bridge
from MMSA_ext.models.hosts import misa
from tests.models.hosts.variants import INFOENH, outputs, train


@pytest.fixture
def variant(made):
    return partial(made, "misa_infoenh")


def test_it_reads_encoder_and_second_recurrent_layers(variant):
    model, args, batch = variant()
    core, seen = model.Model, {}
    core.infoenh.register_forward_pre_hook(lambda module, inputs: seen.update(inputs=inputs))
    outputs(model, args, batch)
    sequences, masks, labels = seen["inputs"]
    text_lengths = batch["text"][:, 1].sum(1)
    assert {m: s.shape for m, s in sequences.items()} == {
        "text": (16, 10, 16), "audio": (16, 10, 10), "vision": (16, 10, 8)
    }  # fmt: skip
    assert labels is None
    for mask in masks.values():
        assert torch.equal(mask.sum(1), text_lengths.long())


class TestFrameLengths:
    def test_lengths_end_at_the_last_frame_that_is_not_zero(self):
        frames = torch.zeros(3, 5, 2)
        frames[0, 1, 1], frames[0, 3, 0], frames[1, 4] = 1.0, -1.0, 1.0
        assert misa.frame_lengths(frames).tolist() == [4, 5, 1]

    @pytest.mark.parametrize("infoenh", [INFOENH, None], ids=["InfoEnh", "host"])
    @pytest.mark.parametrize("frame_lengths", ["text", "own"])
    def test_frames_after_the_text_are_seen_with_own_only(self, variant, infoenh, frame_lengths):
        model, args, batch = variant(infoenh=infoenh, frame_lengths=frame_lengths)
        before = outputs(model, args, batch)["M"]
        late = batch["text"][:, 1].sum(1)[:, None] <= torch.arange(12)[None]
        late &= batch["audio"].abs().sum(-1) > 0
        assert late.any()
        batch["audio"] = batch["audio"] + late[..., None]
        changed = (outputs(model, args, batch)["M"] - before).abs().squeeze(1) > 0
        assert torch.equal(changed, late.any(1) & (frame_lengths == "own"))

    def test_padding_is_not_read(self, variant):
        model, args, batch = variant(frame_lengths="own")
        longer = batch | {"audio": torch.nn.functional.pad(batch["audio"], (0, 0, 0, 5))}
        torch.testing.assert_close(outputs(model, args, longer), outputs(model, args, batch))

    def test_without_infoenh_it_has_misas_parameters(self, variant, made):
        own, plain = variant(infoenh=None, frame_lengths="own")[0], made("misa")[0]
        assert isinstance(own.Model, mmsa_bridge.model_class("misa"))
        assert list(own.state_dict()) == list(plain.state_dict())

    def test_it_trains(self, args_of):
        args = args_of("misa_infoenh", frame_lengths="own")
        assert train(args, splits=("test",)).best_epoch == 1


def test_widened_projections_read_the_hidden_width(variant):
    model, args, batch = variant(infoenh=INFOENH | {"vector": "widen", "hidden": 5})
    core = model.Model
    projections = (core.project_t, core.project_a, core.project_v)
    assert [p[0].in_features for p in projections] == [5, 5, 5]
    assert torch.isfinite(outputs(model, args, batch)["M"]).all()
