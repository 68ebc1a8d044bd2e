"""Hyper-parameter search over MMSA's search spaces, selected on the validation split."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pandas as pd

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.resolve import checked, get_config_tune, merge, unread
from MMSA_ext.datasets import DEFINITION
from MMSA_ext.errors import ConfigError
from MMSA_ext.files import write_atomically
from MMSA_ext.reporting.render import csv_text
from MMSA_ext.training.trainer import MINIMISED

if TYPE_CHECKING:
    from MMSA_ext.runs.seeds import Run

logger = logging.getLogger("MMSA")

# Part of the identity of runs selected on the test split: they are never taken for honest ones.
ON_TEST = {"tuned_on": "test"}
ON_TEST_NOTE = (
    "hyper-parameters were selected on the TEST split (tune_on_test); this is no test result"
)


def tune(
    run: Run,
    space: Mapping[str, list[Any]],
    trials: int,
    seed: int,
    *,
    given: Mapping[str, Any] | None = None,
    on_test: bool = False,
) -> Run:
    """Search the configuration with the best validation `KeyEval`.

    Trials are ordinary runs in the record store, and the search draws the same points in the same
    order whenever it is started, so an interrupted search continues where it stopped, and one with
    more trials goes on from one with fewer.

    `<results>/tune/<dataset>-<model>.csv` has one row a trial. The best configuration is written
    twice, complete, so that either file with the same seed gives the same numbers:
    `...-best.json` is what `config=` of `MMSA_run` takes, and `...-best-config.json` a file for
    `config_file=`, in MMSA's schema. Names end in `-on-test` where the test split selected. Of the
    trials that are trained now, only the best keeps its checkpoint.

    Args:
        run: The run whose configuration is tuned.
        space: Choices of each key, from `search_space`.
        trials: Number of configurations.
        seed: Seed of the search and of every trial.
        given: Overrides that the user set; they are not searched.
        on_test: Select by the test split, as MMSA 2.2.1 does; every record says so.

    Returns:
        The run with the best configuration.

    Raises:
        ConfigError: If nothing is left to search, a choice cannot be used, or every trial diverged.
    """
    name, dataset = run.args.model_name, run.args.dataset_name
    given = dict(given or {})
    fixed = {*given, *(path for path, _ in mmsa_bridge.leaves(given))}
    whole = {key for key, value in given.items() if not isinstance(value, Mapping)}
    space = {k: v for k, v in space.items() if k not in fixed and k.split(".")[0] not in whole}
    space = _read_by(run.args, space)
    if not space:
        raise ConfigError(
            f"{name!r} has nothing to search on {dataset!r}: add 'debugParams' with 'd_paras' to a "
            "configuration file (-c), or fix fewer keys."
        )
    split, stem = ("test", "-on-test") if on_test else ("valid", "")
    if on_test:
        run = run.with_overrides({}, notes=(ON_TEST_NOTE,), marks=ON_TEST)
    key = run.args.get("KeyEval", "Loss")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="minimize" if key in MINIMISED else "maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
    )
    checkpoints: dict[int, Path] = {}

    def objective(trial: optuna.Trial) -> float:
        point = _suggest(trial, space)
        result = run.with_overrides(point).seed(seed, trial.number + 1)
        trial.set_user_attr("configuration", point)
        trial.set_user_attr("record", result.record_path.name)
        # What was there before the search is the user's and stays.
        if result.checkpoint is not None and not result.reused:
            checkpoints[trial.number] = result.checkpoint
        value = result.record.metrics.get(split, {}).get(key)
        if result.diverged or value is None:
            raise optuna.TrialPruned
        return value

    def save(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        rows = [_row(done, f"{split}_{key}") for done in study.trials]
        table = csv_text(pd.DataFrame(rows))
        _write(run, f"{stem}.csv", table)
        logger.info("Trial %d of %d: %s", trial.number + 1, trials, rows[-1])
        best = _best_number(study)
        kept = checkpoints.get(best) if best is not None else None
        for number in [number for number in checkpoints if number != best]:
            if (dropped := checkpoints.pop(number)) != kept:  # a point may be drawn twice
                dropped.unlink(missing_ok=True)

    study.optimize(objective, n_trials=trials, callbacks=[save])
    if _best_number(study) is None:
        raise ConfigError(f"all {trials} trials diverged; search other values, lower rates first.")
    best: dict[str, Any] = study.best_trial.user_attrs["configuration"]
    chosen = run.with_overrides(best)
    _write(run, f"{stem}-best.json", _json(merge(given, best)))
    path = _write(run, f"{stem}-best-config.json", _json(_as_config_file(chosen)))
    logger.info("Best configuration by %s %s: %s", split, key, best)
    logger.info("MMSA_run(%r, %r, config_file=%r, seeds=[%d])", name, dataset, str(path), seed)
    return chosen


def _best_number(study: optuna.Study) -> int | None:
    finished = [trial for trial in study.trials if trial.value is not None]
    return study.best_trial.number if finished else None


def _as_config_file(run: Run) -> dict[str, Any]:
    """The run's configuration in MMSA's schema, for this model and data set alone."""
    args = dict(run.args)
    name, dataset = args.pop("model_name"), args.pop("dataset_name")
    args.pop(DEFINITION, None)  # the name stands for it
    path = args.pop("featurePath")
    data = {"featurePath": str(Path(path).absolute()) if path else ""}
    kind = "aligned" if args.get("need_data_aligned") else "unaligned"
    return {
        # MMSA joins this folder and the path, which is absolute.
        "datasetCommonParams": {"dataset_root_dir": "", dataset: {kind: data}},
        name: {"commonParams": args, "datasetParams": {dataset: {}}},
    }


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, default=str) + "\n"


def _write(run: Run, suffix: str, content: str) -> Path:
    folder = run.places.results / "tune"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run.args.dataset_name}-{run.args.model_name}{suffix}"
    write_atomically(path, content)
    return path


def search_space(
    model_name: str, dataset_name: str, config_file: str | Path | None = ""
) -> dict[str, list[Any]]:
    """Choices of each tuned key, from `debugParams` of MMSA's tuning file.

    Nested keys, two levels as in MMSA, are joined by a dot. Empty if the model has no choices.

    Raises:
        ConfigError: If the model, the data set or the file is not known.
    """
    args = get_config_tune(model_name, dataset_name, config_file, random_choice=False)
    space: dict[str, list[Any]] = {}
    for key in args.d_paras:
        if isinstance(args[key], dict):
            space.update({f"{key}.{inner}": list(v) for inner, v in args[key].items()})
        elif isinstance(args[key], list | tuple):
            space[key] = list(args[key])
    return space


def _read_by(args: Mapping[str, Any], space: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The keys of a search space that have an effect, whose choices can all be used.

    Of what MMSA searches, some models read not all; trials that differ in no more would be the
    same run.

    Raises:
        ConfigError: If a choice cannot be used.
    """
    start = merge(args, {key: choices[0] for key, choices in space.items()})
    idle = unread(start, space)
    if idle:
        name = args["model_name"]
        logger.info("Not searched, as %s does not read it: %s.", name, ", ".join(idle))
    searched = {key: choices for key, choices in space.items() if key not in idle}
    for key, choices in searched.items():
        for choice in choices:
            checked(merge(start, {key: choice}), drawn=True)
    return searched


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
