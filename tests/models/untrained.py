"""Every model as it is before training: its arguments and weights, as a checkpoint has them."""

import copy
import pickle
from pathlib import Path
from typing import Any

from easydict import EasyDict
from torch import Tensor

from MMSA_ext import mmsa_bridge, mmsa_files
from MMSA_ext.config.resolve import identity_config
from MMSA_ext.data.features import read_features
from MMSA_ext.data.scaling import wants_scaling
from MMSA_ext.registry import list_models, trains_in_mmsa
from MMSA_ext.text_encoders import encoder_config
from MMSA_ext.training.checkpoint import Checkpoint
from tests.conftest import make_feature_data
from tests.models.hosts.variants import make_args, write_features
from tests.models.test_all_models import tiny_args

STOCK = [name for name in mmsa_files.models() if name not in mmsa_files.UNIMODAL_TASKS]
OWN = [name for name in list_models() if not trains_in_mmsa(name)]
# What makes a model small, as in `test_mmsa_models.py`.
SMALL: dict[str, dict[str, Any]] = {
    "tfr_net": {"dst_feature_dim_nheads": [6, 2], "nlevels": 1, "fusion_gru_layers": 1},
    "mctn": {"need_data_aligned": False, "max_seq_len": 10},
}


def untrained(name: str, folder: Path, encoder: Path) -> tuple[EasyDict, dict[str, Tensor]]:
    """Arguments and weights; of MMSA's models, a feature file is written into the folder."""
    if name in OWN:
        args = tiny_args(name, "mosi", encoder)
        model = mmsa_bridge.build_model(args)
        text_encoder = getattr(model.Model, "text_encoder", None)
        args.text_encoder_config = text_encoder and encoder_config(text_encoder.encoder)
    else:
        path = write_features(folder / "features.pkl")
        args = make_args(name, path, encoder, **SMALL.get(name, {}))
        mmsa_bridge.stock_loaders(args)  # which says how wide the text is
        model = mmsa_bridge.build_model(copy.deepcopy(args))  # some write into it
    args.model_save_path = folder / "checkpoint.pth"
    return args, {key: value.clone() for key, value in model.state_dict().items()}


def untrained_checkpoint(name: str, folder: Path, encoder: Path) -> tuple[Checkpoint, Path]:
    """A checkpoint, and a feature file that it scores."""
    args, weights = untrained(name, folder, encoder)
    path = folder / "features.pkl"
    if name in OWN:
        path.write_bytes(pickle.dumps(make_feature_data()))
    else:
        args.seq_lens = [10, 12, 12]
    scaling = read_features(path, "mosi").fit_scaling().plain() if wants_scaling(args) else None
    metrics = {"valid": {"MAE": 1.25}, "test": {"MAE": 1.5, "Corr": float("nan")}}
    return Checkpoint(identity_config(args), 1, weights, metrics, scaling), path
