"""The text-only control reads what DashFusion's head reads."""

import pytest
import torch

from MMSA_ext.config.resolve import resolve
from MMSA_ext.models.contract import Inputs
from MMSA_ext.models.parts.attention import masked_mean
from MMSA_ext.registry import get_model
from tests.conftest import tiny_config


@pytest.mark.parametrize("readout", ["first", "first_and_mean"])
def test_the_head_reads_the_first_token_and_the_mean_only_if_asked(
    tiny_encoder,
    dataset,
    readout,
):
    torch.manual_seed(0)
    given = {} if readout == "first" else {"readout": readout}
    args = resolve("text_only", "mosi", "", tiny_config("text_only", tiny_encoder, **given))
    model = get_model("text_only").build(args).eval()
    batch = dataset.batch(torch.arange(6))
    with torch.no_grad():
        features, mask = model.text_encoder(batch["text"])
        first, mean = features[:, 0], masked_mean(features, mask)
        read = first if readout == "first" else torch.cat([first, mean], dim=-1)
        outputs = model(Inputs.of(batch))
        torch.testing.assert_close(outputs["M"], model.head(read))
        torch.testing.assert_close(outputs["Feature_t"], mean)
        torch.testing.assert_close(outputs["Feature_f"], first)
