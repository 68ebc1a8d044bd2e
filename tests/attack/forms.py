"""Files in odd forms and with odd values, through check-data and one epoch of training.

What `check_features` calls usable must train, in every model; what it does not is refused by the
run with the same problems. A run may diverge where values are of very different scales and the
report warned of that, and where a tiny model on random labels is no better than at the start.
"""

from __future__ import annotations

import copy
import logging
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from MMSA_ext import mmsa_bridge, predict_file
from MMSA_ext.data.features import check_features
from MMSA_ext.errors import ConfigError, FeatureFileError
from MMSA_ext.names import MODALITIES, SPLITS
from tests.attack.tally import Tally
from tests.conftest import make_feature_data, train, write_tiny_encoder
from tests.data.test_forms import FORMS, LABELS, MODELS, configuration

TRIES = 300
KINDS = (
    *("huge", "scale", "nan", "silence", "zero frames", "front", "half", "none", "constant"),
    *("label scale", "one sample", "lengths"),
)

TRAINED = "usable, trained and predicted"
REFUSED = "refused: check-data and the run name the same problems"
UNFIT = "usable, refused for this model by a ConfigError before training"
WARNED = "usable, diverged, and the scale was warned of"
NO_BETTER = "usable, trained, no epoch better than the untrained model"
ALLOWED = (TRAINED, REFUSED, UNFIT, WARNED, NO_BETTER)


def odd_values(data: dict[str, Any], rng: np.random.Generator) -> str:
    """Change some values; returns what was done."""
    split, key = data[rng.choice(SPLITS)], str(rng.choice(MODALITIES))
    array = np.array(split[key], dtype=np.float64)
    n, length, width = array.shape
    at = rng.integers(n), rng.integers(length), rng.integers(width)
    kind = str(rng.choice(KINDS))
    if kind == "huge":
        array[at] = 10.0 ** rng.uniform(5, 300)
    elif kind == "scale":
        factor = 10.0 ** rng.uniform(-9, 9)
        for each in data.values():
            each[key] = np.array(each[key], dtype=np.float64)
            each[key][..., at[2]] *= factor
        return f"{kind} {key} {factor:.0e}"
    elif kind == "nan":
        array[at] = np.nan
    elif kind == "silence":
        array[at[0], at[1]] = -np.inf
    elif kind == "zero frames":
        array[at[0], : rng.integers(1, length + 1)] = 0
    elif kind == "front":
        for each in data.values():
            each[key] = np.ascontiguousarray(np.array(each[key])[:, ::-1])
        return f"{kind} {key}"
    elif kind == "constant":
        split[str(rng.choice(LABELS))][:] = rng.choice([0, 0.5])
        return kind
    elif kind == "label scale":
        for each in data.values():
            labels = np.asarray(each["regression_labels"])
            if labels.dtype != object:
                each["regression_labels"] = labels * rng.choice([0.1, 3])
        return kind
    elif kind == "half":
        texts = list(split["raw_text"])
        texts[at[0]] = "half \udc00"
        split["raw_text"] = texts
        return kind
    elif kind == "none":
        labels = np.array(split["regression_labels"], dtype=object)
        labels[at[0]] = rng.choice([None, ""])
        split["regression_labels"] = labels
        return kind
    elif kind == "one sample":
        for name in split:
            split[name] = split[name][:1]
        return kind
    elif kind == "lengths":
        split["audio_lengths"] = list(split["audio_lengths"])
        split["audio_lengths"][0] = int(rng.integers(-1, 14))
        return kind
    split[key] = array
    return f"{kind} {key}"


def attempt(number: int, folder: Path, encoder: Path) -> tuple[str, str]:
    """One file and one model: outcome, and what was done."""
    rng = np.random.default_rng(number)
    data = copy.deepcopy(make_feature_data(dataset="sims", seed=number))
    done = [odd_values(data, rng) for _ in range(rng.integers(0, 3))]
    for name in rng.choice(list(FORMS), size=rng.integers(0, 3), replace=False):
        try:
            FORMS[str(name)](data)
        except (ValueError, TypeError, OverflowError, AttributeError, KeyError, IndexError):
            continue  # this form is not one of what the values are now
        done.append(str(name))
    model = str(rng.choice(MODELS))
    config = configuration(model, encoder) | {"batch_size": int(rng.integers(2, 8))}
    if rng.random() < 0.2:
        config["front_padding"] = str(rng.choice(["turn", "keep"]))
    said = f"{number}: {model} {config.get('front_padding', '')} {done}"
    path = folder / "features.pkl"
    path.write_bytes(pickle.dumps(data))
    try:
        report = check_features(path, "sims", front_padding=config.get("front_padding"))
    except FeatureFileError as unread:  # what is in it cannot be looked at
        try:
            train(model, path, folder / "out", "sims", config=config, reuse=False)
        except FeatureFileError as error:
            return (REFUSED if str(error) == str(unread) else "two refusals"), f"{said} {error}"
        return "trained on a file that cannot be read", said
    report.render().encode()
    try:
        seed = train(model, path, folder / "out", "sims", config=config, reuse=False)
    except FeatureFileError as error:
        same = not report.ok and str(error) == report.error_message()
        return (
            REFUSED if same else f"FeatureFileError, report.ok is {report.ok}"
        ), f"{said} {error}"
    except ConfigError as error:
        return (UNFIT if report.ok else "ConfigError before the problems"), f"{said} {error}"
    if not report.ok:
        return "trained on a file with problems", said
    if not seed.diverged:
        with mmsa_bridge.progress_bars(False):
            predict_file(seed.checkpoint, path, gpu_ids="cpu")
        return TRAINED, said
    reason = str(seed.record.reason)
    if "no epoch" in reason:
        return NO_BETTER, said
    warned = any("is not of one scale" in warning for warning in report.warnings)
    return (WARNED if warned else "usable, diverged without a warning"), f"{said} {reason}"


def attacks(folder: Path, tries: int) -> Iterator[Tally]:
    """Try so many files."""
    tally = Tally("odd forms and values", ALLOWED)
    logging.getLogger("MMSA").setLevel(logging.CRITICAL)
    encoder = folder / "encoder"
    encoder.mkdir()
    write_tiny_encoder(encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(tries):
            try:
                outcome, example = attempt(number, folder, encoder)
            except Exception as error:  # what an attack is there to find
                outcome, example = f"{type(error).__name__}", f"{number}: {error}"
            tally.add(outcome, example)
    yield tally
