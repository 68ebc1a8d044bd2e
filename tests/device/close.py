"""When numbers of two devices are the same."""

import torch


def assert_close(found, expected, share=1e-3):
    """Of each tensor by its name: no number differs by more than a share of the largest."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        on_host = found[name].detach().cpu()
        largest = value.detach().abs().max().item() if value.numel() else 0.0
        torch.testing.assert_close(
            on_host,
            value.detach(),
            rtol=0,
            atol=share * largest + 1e-6,
            msg=lambda said, name=name: f"{name}: {said}",
        )
