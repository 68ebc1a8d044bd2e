"""The text-only control reads what DashFusion's head reads."""

import pytest
import torch

from MMSA_ext.models.parts.attention import masked_mean
from tests.models.conftest import outputs


@pytest.mark.parametrize("given", [{}, {"readout": "first_and_mean"}], ids=str)
def test_the_head_reads_the_first_token_and_the_mean_only_if_asked(tiny_model, dataset, given):
    model = tiny_model("text_only", **given)
    batch = dataset.batch(torch.arange(6))
    result = outputs(model, batch)
    features, mask = model.text_encoder(batch["text"])
    first, mean = features[:, 0], masked_mean(features, mask)
    read = torch.cat([first, mean], dim=-1) if given else first
    torch.testing.assert_close(result["M"], model.head(read))
    torch.testing.assert_close(result["Feature_t"], mean)
    torch.testing.assert_close(result["Feature_f"], first)
