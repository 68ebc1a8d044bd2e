"""The one place that knows MMSA's internals (MMSA 2.2.1, the wheel from PyPI).

`MMSA_ext/__init__.py` introduces this package to it as soon as MMSA is imported, here or by anyone,
so that nothing finds MMSA without this package's models.

- `registration`: MMSA learns this package's models and their configuration, and forgets them again.
- `keys`, `values`: what MMSA's code of a model reads of its configuration, and what fits there.
- `shims`, `encoder_shims`: what MMSA needs to run on current libraries, with any text encoder.
- `data_sets`: MMSA's loader, trainers and metrics on data sets that it has no name for.
- `feature_reading`: MMSA's loader is handed what this package read, once a file.
- `runtime`: logging, progress bars, seeds, device.
- `networks`: the network of a configuration, with trained weights only if they fit it.
- `outlines`: such a network without weights, and how MMSA's evaluation calls it.
- `recording`, `stock`, `scoring`: MMSA's own models, run exactly as MMSA runs them, and watched.
"""

# First, and by a statement: so it does no harm if another thread, importing MMSA, waits for us.
import MMSA  # noqa: F401

from MMSA_ext.mmsa_bridge.data_sets import data_set
from MMSA_ext.mmsa_bridge.encoder_shims import encoder_architecture
from MMSA_ext.mmsa_bridge.extension import Extension
from MMSA_ext.mmsa_bridge.feature_reading import provided_features
from MMSA_ext.mmsa_bridge.keys import KeysRead, keys_read
from MMSA_ext.mmsa_bridge.networks import build_model, trained_model
from MMSA_ext.mmsa_bridge.outlines import Outline, outline
from MMSA_ext.mmsa_bridge.patching import replace_attribute
from MMSA_ext.mmsa_bridge.recording import StockEpoch, WatchedLoader
from MMSA_ext.mmsa_bridge.registration import (
    in_force,
    register,
    registered,
    unregister,
)
from MMSA_ext.mmsa_bridge.runtime import (
    assign_device,
    device_numbers,
    preserved_random_state,
    progress_bars,
    run_logging,
    setup_seed,
)
from MMSA_ext.mmsa_bridge.scoring import predict_stock, stock_predictions
from MMSA_ext.mmsa_bridge.shims import SHIMS
from MMSA_ext.mmsa_bridge.stock import (
    StockRun,
    build_trainer,
    complete_args,
    metrics,
    model_class,
    score_trained,
    stock_loaders,
    train_and_test,
    trainer_class,
)
from MMSA_ext.mmsa_bridge.values import leaves, misfit, shipped_values

__all__ = [
    "SHIMS",
    "Extension",
    "KeysRead",
    "Outline",
    "StockEpoch",
    "StockRun",
    "WatchedLoader",
    "assign_device",
    "build_model",
    "build_trainer",
    "complete_args",
    "data_set",
    "device_numbers",
    "encoder_architecture",
    "in_force",
    "keys_read",
    "leaves",
    "metrics",
    "misfit",
    "model_class",
    "outline",
    "predict_stock",
    "preserved_random_state",
    "progress_bars",
    "provided_features",
    "register",
    "registered",
    "replace_attribute",
    "run_logging",
    "score_trained",
    "setup_seed",
    "shipped_values",
    "stock_loaders",
    "stock_predictions",
    "train_and_test",
    "trained_model",
    "trainer_class",
    "unregister",
]
