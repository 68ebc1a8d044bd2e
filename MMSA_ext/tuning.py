"""Hyper-parameter search over MMSA's search spaces, selected on the validation split."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pandas as pd

from MMSA_ext.config import get_config_tune
from MMSA_ext.reporting.store import write_atomically

if TYPE_CHECKING:
    from MMSA_ext.runner import Run

logger = logging.getLogger("MMSA")

ON_TEST_NOTE = (
    "hyper-parameters were selected on the TEST split (tune_on_test); this is no test result"
)


def tune(
    run: Run, config_file: str | Path, trials: int, seed: int, *, on_test: bool = False
) -> Run:
    """Search the configuration with the best validation `KeyEval`.

    Trials are ordinary runs in the record store, so an interrupted search continues where it
    stopped. `<results>/tune/<dataset>-<model>.csv` has one row a trial, and `...-best.json` the
    best configuration, in the form that `config=` of `MMSA_run` takes.

    Args:
        run: The run whose configuration is tuned.
        config_file: Search space in MMSA's schema; the shipped one if empty.
        trials: Number of configurations.
        seed: Seed of the search and of every trial.
        on_test: Select by the test split, as MMSA 2.2.1 does; every record says so.

    Returns:
        The run with the best configuration.

    Raises:
        ConfigError: If the model has no search space.
    """
    split, notes = ("test", (ON_TEST_NOTE,)) if on_test else ("valid", ())
    space = search_space(run.args.model_name, run.args.dataset_name, config_file)
    key = run.args.get("KeyEval", "Loss")
    minimise = key in ("Loss", "MAE")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="minimize" if minimise else "maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
    )
    folder = run.places.results / "tune"
    stem = f"{run.args.dataset_name}-{run.args.model_name}"

    def objective(trial: optuna.Trial) -> float:
        point = _suggest(trial, space)
        result = run.with_overrides(point, notes).seed(seed, trial.number + 1)
        trial.set_user_attr("configuration", point)
        trial.set_user_attr("record", result.record_path.name)
        value = result.record.metrics.get(split, {}).get(key)
        if result.diverged or value is None:
            raise optuna.TrialPruned
        return value

    def save(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        rows = [_row(done, f"{split}_{key}") for done in study.trials]
        write_atomically(folder / f"{stem}.csv", pd.DataFrame(rows).to_csv(index=False))
        logger.info("Trial %d of %d: %s", trial.number + 1, trials, rows[-1])

    study.optimize(objective, n_trials=trials, callbacks=[save])
    best: dict[str, Any] = study.best_trial.user_attrs["configuration"]
    write_atomically(folder / f"{stem}-best.json", json.dumps(best, indent=2) + "\n")
    logger.info("Best configuration by %s %s: %s", split, key, best)
    return run.with_overrides(best, notes)


def search_space(
    model_name: str, dataset_name: str, config_file: str | Path = ""
) -> dict[str, list[Any]]:
    """Choices of each tuned key, from `debugParams` of MMSA's tuning file.

    Nested keys, two levels as in MMSA, are joined by a dot.

    Raises:
        ConfigError: If the model has no search space.
    """
    args = get_config_tune(model_name, dataset_name, config_file, random_choice=False)
    space: dict[str, list[Any]] = {}
    for key in args.d_paras:
        if isinstance(args[key], dict):
            space.update({f"{key}.{inner}": list(v) for inner, v in args[key].items()})
        elif isinstance(args[key], list | tuple):
            space[key] = list(args[key])
    return space


def _suggest(trial: optuna.Trial, space: dict[str, list[Any]]) -> dict[str, Any]:
    """One point of the space; choices are drawn by position, as some are lists."""
    point: dict[str, Any] = {}
    for key, choices in space.items():
        choice = choices[trial.suggest_categorical(key, range(len(choices)))]
        outer, _, inner = key.partition(".")
        if inner:
            point.setdefault(outer, {})[inner] = choice
        else:
            point[key] = choice
    return point


def _row(trial: optuna.trial.FrozenTrial, score: str) -> dict[str, Any]:
    attributes = trial.user_attrs
    return {
        **attributes.get("configuration", {}),
        score: "diverged" if trial.value is None else trial.value,
        "record": attributes.get("record", ""),
    }
