"""Where the host may look at numbers, and draw some itself."""

from __future__ import annotations

import torch


def on_eager_cpu(device: torch.device) -> bool:
    """Whether code runs on a CPU, line by line.

    Elsewhere the host should not ask for a number: on another device it would wait for it, and a
    graph that is compiled or exported is traced before there are any.
    """
    return device.type == "cpu" and not torch.compiler.is_compiling()
