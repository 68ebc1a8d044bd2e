"""`MMSA_run`: MMSA's entry point, with its signature and protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.resolve import resolve
from MMSA_ext.datasets import known_from
from MMSA_ext.errors import ConfigError
from MMSA_ext.own_models import import_modules
from MMSA_ext.runs.options import RunOptions
from MMSA_ext.runs.results import RunResults
from MMSA_ext.runs.seeds import Run
from MMSA_ext.training.callbacks import Callback
from MMSA_ext.validation import distinct_seeds, flag, whole_number

DEFAULT_SEEDS = (1111, 1112, 1113, 1114, 1115)


def MMSA_run(  # noqa: N802 (MMSA's name)
    model_name: str,
    dataset_name: str,
    config_file: str | Path | None = None,
    config: dict[str, Any] | None = None,
    seeds: Sequence[int] | int | None = None,
    is_tune: bool = False,
    tune_times: int = 50,
    custom_feature: str | Path | None = None,
    feature_T: str | Path | None = None,  # noqa: N803 (MMSA's names)
    feature_A: str | Path | None = None,  # noqa: N803
    feature_V: str | Path | None = None,  # noqa: N803
    gpu_ids: Sequence[int | str] | int | str = (0,),
    num_workers: int = 4,
    verbose_level: int = 1,
    model_save_dir: str | Path | None = None,
    res_save_dir: str | Path | None = None,
    log_dir: str | Path | None = None,
    *,
    reuse: bool = True,
    tune_on_test: bool = False,
    dataset_file: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    track: Sequence[str] | str = (),
    space: Mapping[str, Any] | None = None,
    prune: bool = False,
    jobs: int = 1,
) -> RunResults:
    """Train and test a model on a data set, with MMSA's signature and protocol.

    Args:
        model_name: A model of this package or of MMSA, any case.
        dataset_name: A data set that is shipped or registered, or that `dataset_file` defines, any
            case.
        config_file: Configuration file in MMSA's schema; the shipped ones by default.
        config: Overrides of the configuration.
        seeds: Seeds from 0 to 2**32 - 1, each run once; 1111 to 1115 by default, of a search 1111.
        is_tune: Search hyper-parameters by the **validation** split, on the first seed, then
            return the runs of the best configuration found, on all seeds that are given.
        tune_times: Configurations to try; a search that is called again goes on until there are so
            many.
        custom_feature: Feature file in place of the configured one.
        feature_T: Feature file whose text is used.
        feature_A: Feature file whose audio is used.
        feature_V: Feature file whose vision is used.
        gpu_ids: CUDA devices, of which the first is used; empty for the most free one; -1 or `cpu`
            for the CPU, which is also used where there is no CUDA, and said if a device was given.
        num_workers: Loader processes of MMSA's own models, at most one a processor; this package's
            models need none.
        verbose_level: 0 errors, 1 information, 2 everything.
        model_save_dir: Folder of checkpoints; `~/MMSA/saved_models` by default.
        res_save_dir: Folder of records, tables and pictures; `~/MMSA/results` by default.
        log_dir: Folder of logs; `~/MMSA/logs` by default.
        reuse: Look finished runs up instead of repeating them.
        tune_on_test: Select by the **test** split when tuning, as MMSA 2.2.1 does. Numbers chosen
            this way are not test results, and their records say so.
        dataset_file: JSON file with definitions of data sets, known while this runs.
        callbacks: Told how each seed goes on, see `Callback`.
        track: `tensorboard`, `wandb` or `mlflow`, or several: they log each seed that is computed,
            below `res_save_dir`, see `runs.tracking`.
        space: What to search, in place of the configuration's: by key, a list of choices or a text
            such as `"1e-5..1e-3:log"` or `"1..4"`; nested keys have a dot.
        prune: End trials whose validation is worse than that of most after as many epochs.
        jobs: Processes that make trials; with more than one, the points that are tried depend on
            which trial ends first.

    Returns:
        Per-seed results, summary and the files written.

    Raises:
        ConfigError: Unknown names, keys or values, all in one message; or arguments that cannot be
            meant. Nothing was done then.
        FeatureFileError: The feature file is missing, unsafe or inconsistent.
        TextEncoderError: The text encoder cannot be loaded.
    """
    options = RunOptions(
        custom_feature=custom_feature,
        feature_T=feature_T,
        feature_A=feature_A,
        feature_V=feature_V,
        gpu_ids=gpu_ids,
        num_workers=num_workers,
        verbose_level=verbose_level,
        model_save_dir=model_save_dir,
        res_save_dir=res_save_dir,
        log_dir=log_dir,
        reuse=reuse,
        dataset_file=dataset_file,
        callbacks=callbacks,
        track=track,
    )
    return run_model(
        model_name,
        dataset_name,
        options,
        config_file=config_file,
        config=config,
        seeds=seeds,
        is_tune=is_tune,
        tune_times=tune_times,
        tune_on_test=tune_on_test,
        space=space,
        prune=prune,
        jobs=jobs,
    )


def run_model(
    model_name: str,
    dataset_name: str,
    options: RunOptions,
    *,
    config_file: str | Path | None = None,
    config: dict[str, Any] | None = None,
    seeds: Sequence[int] | int | None = None,
    is_tune: bool = False,
    tune_times: int = 50,
    tune_on_test: bool = False,
    space: Mapping[str, Any] | None = None,
    prune: bool = False,
    jobs: int = 1,
) -> RunResults:
    """`MMSA_run`, with what is not the run's own in one object; arguments and errors are those."""
    wanted = distinct_seeds(seeds if seeds is not None else ())
    tune_times, jobs = whole_number("tune_times", tune_times, 1), whole_number("jobs", jobs, 1)
    is_tune = flag("is_tune", is_tune)
    useless = {
        "tune_on_test": flag("tune_on_test", tune_on_test),
        "space": space is not None,
        "prune": flag("prune", prune),
        "jobs": jobs > 1,
    }
    if not is_tune and (given := [name for name, value in useless.items() if value]):
        raise ConfigError(f"{given[0]} has no effect without a search; add is_tune=True (--tune).")
    if prune and tune_on_test:
        raise ConfigError("prune judges by validation, tune_on_test by test; leave one out.")
    opening = partial(open_run, model_name, dataset_name, config_file=config_file)
    with ExitStack() as opened:
        opened.enter_context(known_from(options.dataset_file))
        if not is_tune:
            run = opened.enter_context(opening(options, config=config))
            return run.seeds(wanted or DEFAULT_SEEDS)
        from MMSA_ext.runs import search_space
        from MMSA_ext.runs.tuning import Search, tune

        first: dict[str, Any] = {}
        if space is None:
            searched = search_space.shipped_space(model_name, dataset_name, config_file)
        else:
            searched = search_space.given_space(space, config)
            # So that a key is checked as one that is set.
            first = {key: values.some()[0] for key, values in searched.items()}
        opening = partial(
            opening,
            config={**config, **first} if isinstance(config, Mapping) else config or first,
            searched=None if first else {k: list(v.some()) for k, v in searched.items()},
        )
        run = opened.enter_context(opening(options))
        wanted = wanted or [DEFAULT_SEEDS[0]]
        search = Search(
            searched,
            own=space is not None,
            trials=tune_times,
            seed=wanted[0],
            given=config or {},
            on_test=tune_on_test,
            prune=prune,
            jobs=jobs,
        )
        return tune(run, search, opening).seeds(wanted)


@contextmanager
def open_run(
    model_name: str,
    dataset_name: str,
    options: RunOptions,
    *,
    config_file: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    searched: Mapping[str, list[Any]] | None = None,
) -> Iterator[Run]:
    """A run, and the surroundings that it trains in.

    Arguments and errors are those of `MMSA_run`; nothing is trained until `Run.seed` is called, and
    data are read when a seed is not in the store.
    For a search, `searched` has the choices of its keys.

    Yields:
        The run; logging and registration end with the `with` block.
    """
    mmsa_bridge.device_numbers(options.gpu_ids)
    import_modules(options.imports)
    with known_from(options.dataset_file):
        args = resolve(model_name, dataset_name, config_file, config, searched=searched)
        places = options.places()
        log_file = places.logs / f"{args.model_name}-{args.dataset_name}.log"
        with (
            mmsa_bridge.registered(),
            mmsa_bridge.run_logging(log_file, options.verbose_level),
            mmsa_bridge.progress_bars(options.verbose_level > 0),
        ):
            yield Run(args, options, places, mmsa_bridge.assign_device(options.gpu_ids))
