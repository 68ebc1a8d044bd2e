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

    @pytest.mark.parametrize(
        ("options", "widths", "between"),
        [
            ({}, WIDTHS, 8),
            ({"hidden": 5}, WIDTHS, 5),
            ({"hidden": 5, "vector": "widen"}, {"text": 5, "audio": 5}, 5),
        ],
        ids=str,
    )
    def test_widths(self, options, widths, between):
        """The host gets what it expects, or with widen the hidden width of every modality."""
        readouts, out = self.read(d=8, **options)
        assert {name: tuple(v.shape) for name, v in out.items()} == {
            name: (2, width) for name, width in widths.items()
        }
        assert readouts.widths == widths
        assert readouts.readouts["text"].token[0].out_features == between

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
