"""Checkpoints of trained models, damaged and forged.

1. Forged content with a digest that fits, and its weights alone with the forged configuration,
   scored: always a `CheckpointError`.
2. Every key of a configuration left out or given a value that makes no sense: a `CheckpointError`,
   or predictions where the key does not matter.

Changed bytes and files that are cut off are tried in tests/training.

No try may take more than `SECONDS` of the processor, or `MEBIBYTES` beyond what is there.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import random
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from MMSA_ext import predict_file
from MMSA_ext.errors import CheckpointError, FeatureFileError, TextEncoderError
from MMSA_ext.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.attack.tally import Tally
from tests.conftest import tiny_config, train, write_tiny_encoder
from tests.models.hosts.variants import INFOENH, SIZES, TRAINING, read_by, write_features

TRIES = 300
MODELS = ("text_only", "dashfusion", "lf_dnn", "self_mm")
ALSO_FORGED = ("self_mm_infoenh", "confede", "mult")
SECONDS, MEBIBYTES = 5.0, 300.0
REFUSED = {"CheckpointError", "FeatureFileError"}  # the latter: the features do not fit it


@dataclass(frozen=True)
class Trained:
    """A checkpoint and the features that trained it."""

    model: str
    path: Path
    features: Path


def trained_models(folder: Path, models: tuple[str, ...] = MODELS) -> list[Trained]:
    """Train tiny models for an epoch each."""
    encoder, features = folder / "encoder", folder / "features.pkl"
    if not features.exists():
        encoder.mkdir()
        with quiet():
            write_tiny_encoder(encoder)
        write_features(features, planted=True)
    found = []
    for model in models:
        if model.partition("_")[0] in ("text", "dashfusion", "confede"):
            config = tiny_config(model, encoder, num_epochs=1)
        else:
            host = model.removesuffix("_infoenh")
            config = read_by(host, TRAINING | {"pretrained": str(encoder)}) | SIZES.get(host, {})
            config |= {"infoenh": INFOENH} if host != model else {}
        with quiet():
            seed = train(model, features, folder / "runs", config=config)
        found.append(Trained(model, seed.checkpoint, features))
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Neither MMSA's bars nor warnings of what is loaded."""
    logger, level = logging.getLogger("MMSA"), logging.getLogger("MMSA").level
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


def outcome(attempt: Callable[[], str]) -> str:
    """How a try ended; whether it took too much."""
    _forget_peak()
    began, before = time.process_time(), _memory("VmRSS")
    try:
        with quiet():
            ended = attempt()
    except CheckpointError as error:
        ended = "CheckpointError" if ".pth" in str(error) else f"unnamed: {error}"
    except TextEncoderError:
        ended = "TextEncoderError"
    except FeatureFileError as error:
        ended = "FeatureFileError" if "does not fit" in str(error) else str(error)
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"[:100]
    if time.process_time() - began > SECONDS:
        return f"more than {SECONDS} s ({ended})"
    if _memory("VmHWM") - before > MEBIBYTES:
        return f"more than {MEBIBYTES} MiB ({ended})"
    return ended


def forgeries(sound: Checkpoint) -> Iterator[tuple[str, Checkpoint]]:
    """Checkpoints that are none, by what is wrong with them; their digests fit."""

    def forged(config: Any = None, weights: Any = None) -> Checkpoint:
        return Checkpoint(
            sound.config if config is None else sound.config | config,
            sound.seed,
            sound.state_dict if weights is None else weights,
            sound.metrics,
        )

    yield from _forged_weights(sound, forged)
    for name in ("", "no_such_model", "DashFusion ", None, 5, ["lf_dnn"]):
        yield f"model_name {name!r}", forged({"model_name": name})
    others = {"dashfusion", "mult", "almt", "self_mm_infoenh"} - {sound.config["model_name"]}
    for name in sorted(others):
        yield f"weights of another model, {name}", forged({"model_name": name})
    for key in ("feature_dims", "seq_lens"):
        for value in (None, [], [1, 2], [1, 2, "3"], [1, 2, -3], "123", {"a": 1}, [True, 1, 1]):
            yield f"{key} {value!r}", forged({key: value})
    yield "feature_dims 10^9", forged({"feature_dims": [16, 10**9, 10**9]})
    for key in ("items", "update", "__class__", "pop", "copy"):
        yield f"a key {key}", forged({key: 1})
    encoder = sound.config.get("text_encoder_config")
    if encoder:
        for key, value in (
            *((key, 10**5) for key in ("num_hidden_layers", "vocab_size", "hidden_size")),
            *((key, 10**9) for key in ("num_hidden_layers", "num_labels", "intermediate_size")),
            *(("hidden_size", 10**6), ("hidden_size", 0), ("hidden_size", -1)),
            *(("num_attention_heads", 3), ("hidden_act", "no_such"), ("model_type", "no_such")),
            *(("model_type", None), ("model_type", "t5"), ("model_type", "vit")),
            *(("hidden_size", "many"), ("hidden_size", None), ("hidden_size", [16])),
        ):
            changed = {"text_encoder_config": encoder | {key: value}}
            yield f"text encoder's {key} {value!r}", forged(changed)
        for value in ({}, {"model_type": "bert"}):
            yield f"text encoder {value}", forged({"text_encoder_config": value})
    for key in ("dim", "hidden_dims", "post_fusion_dim", "encoder_layers", "nlevels", "k"):
        value = sound.config.get(key)
        if isinstance(value, int):
            for other in (value + 1, 10**6, 10**9):
                yield f"{key} {other}", forged({key: other})
        elif isinstance(value, list):
            yield f"{key} 10^9", forged({key: [10**9] * len(value)})


def _forged_weights(
    sound: Checkpoint, forged: Callable[..., Checkpoint]
) -> Iterator[tuple[str, Checkpoint]]:
    weights = sound.state_dict
    largest = max(weights, key=lambda name: weights[name].numel())

    def other(value: torch.Tensor) -> dict[str, torch.Tensor]:
        return weights | {largest: value}

    yield "config {}", Checkpoint({}, 1, weights, {})
    yield "a weight missing", forged(weights={k: v for k, v in weights.items() if k != largest})
    yield "a weight too many", forged(weights=weights | {"Model.other": torch.zeros(2)})
    yield (
        "a name in capitals",
        forged(
            weights={name.upper() if name == largest else name: v for name, v in weights.items()}
        ),
    )
    yield "a shape", forged(weights=other(weights[largest].reshape(-1)))
    yield "float64", forged(weights=other(weights[largest].double()))
    yield "float16", forged(weights=other(weights[largest].half()))
    yield "integers", forged(weights=other(weights[largest].long()))
    for number in ("nan", "inf"):
        changed = weights[largest].clone()
        changed.view(-1)[-1] = float(number)
        yield f"a weight that is {number}", forged(weights=other(changed))


def scored(path: Path, trained: Trained, config: dict[str, Any] | None = None) -> str:
    """Score with a checkpoint."""
    table = predict_file(path, trained.features, gpu_ids="cpu", overrides=config)
    return "scored" if table["prediction"].notna().all() else "NaN predicted"


def forged(trained: Trained, folder: Path) -> Tally:
    """`forgeries`, each scored; a digest that fits does not make them checkpoints."""
    sound, path = load_checkpoint(trained.path), folder / "forged.pth"
    tally = Tally(f"{trained.model}: forged", REFUSED)
    for what, checkpoint in forgeries(sound):
        save_checkpoint(path, checkpoint)
        tally.add(outcome(partial(scored, path, trained)), what)
        if checkpoint.config:
            torch.save(checkpoint.state_dict, path)
            alone = partial(scored, path, trained, checkpoint.config)
            tally.add(outcome(alone), f"{what}, weights alone")
    return tally


VALUES = (None, "x", [], {}, -1, 0, 10**9, 1e308, True, [None, None, None])


def configurations(trained: Trained, folder: Path, tries: int) -> Tally:
    """Every key of the configuration left out, and some with values without sense."""
    sound, path = load_checkpoint(trained.path), folder / "configured.pth"
    allowed = {*REFUSED, "TextEncoderError", "scored"}  # where `pretrained` names no encoder
    tally = Tally(f"{trained.model}: keys of its configuration", allowed)
    changes = [(key, None, True) for key in sound.config]
    changes += [(key, value, False) for key in sound.config for value in VALUES]
    changes += [("seq_lens", [10**9] * 3, False), ("train_samples", 10**9, False)]
    draw = random.Random(trained.model)
    for key, value, absent in draw.sample(changes, min(tries, len(changes))):
        config = copy.deepcopy(sound.config) | {key: value}
        if absent:
            del config[key]
        save_checkpoint(path, Checkpoint(config, sound.seed, sound.state_dict, sound.metrics))
        what = f"without {key}" if absent else f"{key} {value!r}"
        tally.add(outcome(partial(scored, path, trained)), what)
    return tally


def _memory(line: str) -> float:
    """A line of the process's status, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{line}:")[2].split()[0]) / 2**10


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


@contextlib.contextmanager
def bounded_memory(mebibytes: int) -> Iterator[None]:
    """A failed defence shall not take the machine with it."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(_memory("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, ((used + mebibytes) * 2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def attacks(folder: Path, tries: int) -> Iterator[Tally]:
    """All tables."""
    models = trained_models(folder)
    with bounded_memory(20_000):
        for trained in [*models, *trained_models(folder, ALSO_FORGED)]:
            yield forged(trained, folder)
            yield configurations(trained, folder, tries)
