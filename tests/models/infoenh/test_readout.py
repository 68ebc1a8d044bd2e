"""Tokens come out as the vectors that a host expects."""

import pytest
import torch

from MMSA_ext.models.infoenh import InfoEnhHostConfig, VectorReadouts

WIDTHS = {"text": 6, "audio": 3}


class TestVectorReadouts:
    def read(self, **options):
        torch.manual_seed(0)
        self.tokens = {name: torch.randn(2, 3, 4) for name in WIDTHS}
        self.masks = {name: torch.tensor([[True, True, False], [True] * 3]) for name in WIDTHS}
        self.own = {name: torch.randn(2, width) for name, width in WIDTHS.items()}
        readouts = VectorReadouts(4, InfoEnhHostConfig(**options), WIDTHS)
        return readouts, readouts(self.tokens, self.masks, self.own)

    def test_the_host_gets_the_width_that_it_expects(self):
        readouts, out = self.read(d=8)
        assert list(out) == list(WIDTHS)
        assert {name: tuple(v.shape) for name, v in out.items()} == {
            "text": (2, 6),
            "audio": (2, 3),
        }
        assert readouts.readouts["text"].token[0].out_features == 8

    def test_hidden_sets_the_width_in_between(self):
        readouts, _ = self.read(d=8, hidden=5)
        assert readouts.readouts["text"].token[0].out_features == 5

    def test_widen_gives_every_modality_the_hidden_width(self):
        readouts, out = self.read(d=8, hidden=5, vector="widen")
        assert readouts.widths == {"text": 5, "audio": 5}
        assert {v.shape[1] for v in out.values()} == {5}

    def test_residual_adds_the_hosts_vector(self):
        _, plain = self.read(d=8)
        _, added = self.read(d=8, residual=True)
        for name in WIDTHS:
            torch.testing.assert_close(added[name], plain[name] + self.own[name])

    def test_padded_tokens_do_not_count(self):
        readouts, out = self.read(d=8)
        changed = {name: t.clone() for name, t in self.tokens.items()}
        changed["text"][0, 2] = 100
        torch.testing.assert_close(readouts(changed, self.masks, self.own)["text"], out["text"])

    def test_residual_cannot_be_had_with_widen(self):
        with pytest.raises(ValueError, match=r"residual adds .*choose one"):
            InfoEnhHostConfig(residual=True, vector="widen")
