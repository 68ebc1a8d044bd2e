"""`Run`: one model on one data set with one configuration, from features to records and tables.

Every seed becomes one immutable record as soon as it is finished; a run that is interrupted goes on
at the seed it was in, a model of this package at the epoch after its last finished one, and a run
that was done before is looked up.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from easydict import EasyDict

from MMSA_ext import mmsa_bridge
from MMSA_ext.config import mmsa_keys
from MMSA_ext.config.resolve import identity_config, merge
from MMSA_ext.data import corruption
from MMSA_ext.data.features import FeatureSet, base_file, fingerprint, read_features
from MMSA_ext.data.scaling import FeatureScaling, wants_scaling
from MMSA_ext.errors import CheckpointError, ConfigError, FeatureFileError, MMSAExtError, suggest
from MMSA_ext.files import check_writable, exclusive, scratch_folder
from MMSA_ext.names import SPLITS
from MMSA_ext.paths import DATA_ROOT_VARIABLE, Places, shown, why_no_file
from MMSA_ext.records.record import metric_name
from MMSA_ext.records.rescue import store_or_rescue
from MMSA_ext.records.store import (
    Environment,
    RunIdentity,
    RunRecord,
    RunStore,
    StoreError,
    file_digest,
    new_file,
    read_record,
)
from MMSA_ext.records.store import collect_environment as describe_environment
from MMSA_ext.registry import trains_in_mmsa, unread_modalities
from MMSA_ext.reporting.tables import append_mmsa_csv, write_seed_csv
from MMSA_ext.runs import requirements, tracking
from MMSA_ext.runs.identity import run_identity
from MMSA_ext.runs.inputs import adopt_shapes, seen_features
from MMSA_ext.runs.one_seed import SeedOutcome, run_stock_seed, score_stock_seed
from MMSA_ext.runs.options import RunOptions
from MMSA_ext.runs.own_seed import run_extension_seed, score_extension_seed
from MMSA_ext.runs.progress_bar import ProgressBar
from MMSA_ext.runs.results import RunResults, SeedResult
from MMSA_ext.stopping import deferred
from MMSA_ext.training.callbacks import (
    Callback,
    CallbackError,
    EpochProgress,
    Following,
    RunStart,
    following,
)
from MMSA_ext.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from MMSA_ext.training.state import ResumePoint
from MMSA_ext.training.trainer import MINIMISED
from MMSA_ext.version import __version__

logger = logging.getLogger("MMSA")

# What must be free before a seed is begun: where checkpoints go, and where the log is.
_MODELS_BYTES, _LOG_BYTES = 4 * 2**20, 2**16


class Run:
    """One model on one data set with one configuration; its seeds run one after another.

    Args:
        args: Resolved configuration.
        options: How it is made.
        places: Where results go.
        device: Where to train.
        features: Features, if they are read already.
        notes: Remarks that every record of this run carries.
        marks: What sets this run apart from one with the same configuration; part of its identity.
    """

    def __init__(
        self,
        args: EasyDict,
        options: RunOptions,
        places: Places,
        device: torch.device,
        *,
        features: FeatureSet | None = None,
        notes: tuple[str, ...] = (),
        marks: dict[str, str] | None = None,
    ) -> None:
        self.args, self.options, self.places, self.device = args, options, places, device
        self.custom_feature, self.other_features = options.custom_feature, options.modality_files
        self.reuse, self.notes, self.marks = options.reuse, notes, marks or {}
        self.store = RunStore(places.results / "runs")
        self._check_metric()
        self.corruption = corruption.bind(args)
        self._given = features

    @cached_property
    def features(self) -> FeatureSet:
        """The data, read and checked when they are first needed; the shapes become theirs.

        Raises:
            FeatureFileError: They cannot be used.
            ConfigError: The configuration asks for what they do not have.
        """
        features = self._given or self._read_features()
        requirements.check(self.args, features, self.corruption)
        features = features.without(unread_modalities(self.args))
        adopt_shapes(self.args, features)
        return features

    def with_overrides(
        self,
        overrides: dict[str, Any],
        *,
        features: FeatureSet | None = None,
        notes: tuple[str, ...] = (),
        marks: dict[str, str] | None = None,
    ) -> Run:
        """The same run with other configuration values; features that are not given are shared."""
        return Run(
            merge(self.args, overrides),
            self.options,
            self.places,
            self.device,
            # Unless they are to be read otherwise.
            features=features or (None if "front_padding" in overrides else self.features),
            notes=(*self.notes, *notes),
            marks=self.marks | (marks or {}),
        )

    def seeds(self, seeds: Sequence[int]) -> RunResults:
        """Run or look up all seeds, then write the tables and the pictures.

        Raises:
            WriteError: A seed cannot be stored: found before it is trained, or, if the disk fails
                meanwhile, with where everything was kept instead.
        """
        results: list[SeedResult] = []
        try:
            for position, seed in enumerate(seeds, start=1):
                results.append(self.seed(seed, position))
        except (KeyboardInterrupt, SystemExit) as stopped:
            stopped.add_note(self._kept(results))
            raise
        return self._shown(results)

    def _kept(self, results: Sequence[SeedResult]) -> str:
        """What there is after a stop and how to go on, for people."""
        if not results:
            if not self.reuse or trains_in_mmsa(self.args.model_name):
                return "Stopped before a seed was finished; the same command begins again."
            return (
                "Stopped before a seed was finished; the same command goes on after its last "
                "finished epoch."
            )
        seeds = ", ".join(str(result.seed) for result in results)
        again = "goes on" if self.reuse else "starts over; without --repeat it goes on"
        return f"Stopped; kept in {self.store.root}: seeds {seeds}. The same command {again}."

    def _shown(self, results: Sequence[SeedResult]) -> RunResults:
        """The tables and pictures of seeds."""
        model, dataset = self.args.model_name, self.args.dataset_name
        finished = [dict(result.metrics) for result in results if not result.diverged]
        csv_path = self.places.results / "normal" / f"{dataset}.csv"
        seed_csv_path = self.places.results / "seeds" / f"{dataset}.csv"
        with _unharmed(f"the table {csv_path}"):
            append_mmsa_csv(csv_path, model, finished)
        with _unharmed(f"the table {seed_csv_path}"):
            seed_csv_path.parent.mkdir(parents=True, exist_ok=True)
            with exclusive(seed_csv_path.with_name(f".{seed_csv_path.name}.lock")):
                write_seed_csv(seed_csv_path, self.store.records(dataset))
        figures: tuple[Path, ...] = ()
        with _unharmed("the pictures of the training curves"):
            figures = self._draw(results)
        logger.info("Results saved to %s and %s.", csv_path, seed_csv_path)
        return RunResults(model, dataset, tuple(results), csv_path, seed_csv_path, figures)

    def seed(
        self, seed: int, position: int = 1, *, callbacks: Sequence[Callback] = ()
    ) -> SeedResult:
        """Run one seed, or look it up; its record is on disk afterwards.

        Args:
            seed: From 0 to 2**32 - 1.
            position: Of the seed in the list of seeds, from 1.
            callbacks: Told of this seed, after those of the options.

        Raises:
            WriteError: As for `seeds`.
        """
        identity = self.identity(seed)
        resume = self._resume_point(identity)
        known = self._look_up(identity) if self.reuse else None
        if known is not None or not self.reuse:
            resume.remove()
        if known is not None:
            return self._result(known, reused=True)
        if self.features.fingerprint != identity.dataset_fingerprint:  # changed just now
            return self.seed(seed, position, callbacks=callbacks)
        self.store.check_writable(identity.dataset, identity.model)
        self._check_folders(identity)
        logger.info("-" * 30 + " Running with seed %d [%d] " + "-" * 30, seed, position)
        checkpoint = self._checkpoint_path(identity)
        with (
            self._followed(_start(identity, resume), callbacks) as (followers, followed),
            scratch_folder(self.places.models) as scratch,
        ):
            outcome = self._train(identity, position, scratch / "weights.pth", followers, resume)
            staged = scratch / checkpoint.name
            with deferred(f"the result of seed {seed}"):
                notes = self._save_checkpoint(identity, outcome, staged)
                there = staged.is_file()
                record = self._record(identity, outcome, notes, checkpoint.name if there else None)
                path = store_or_rescue(
                    self.store,
                    record,
                    outcome.predictions,
                    overwrite=not self.reuse,
                    checkpoint=checkpoint,
                    staged=staged if there else None,
                )
                resume.remove()
                followed.end = replace(
                    followed.end,
                    status=record.status,
                    reason=record.reason,
                    metrics=deepcopy(record.metrics),
                    chosen_epoch=record.chosen_epoch,
                    record=path,
                )
            logger.info("Result for seed %d: %s", seed, record.metrics.get("test", record.reason))
        return self._result(read_record(path), reused=False)  # as stored, with its digests

    def trial(
        self,
        seed: int,
        position: int = 1,
        *,
        splits: Collection[str] = ("valid",),
        callbacks: Sequence[Callback] = (),
    ) -> SeedOutcome:
        """Train one seed and score it on some splits alone; no record and no checkpoint is made.

        Stopped, it leaves the state after its last epoch, and the same call goes on there.
        Arguments and errors are those of `seed`.
        """
        identity = self.identity(seed)
        self._check_folders(identity)
        resume = self._resume_point(identity)
        if not self.reuse:
            resume.remove()
        start = _start(identity, resume)
        start = replace(start, run_id=f"{start.run_id}-trial")  # a run so configured is another
        with self._followed(start, callbacks) as (followers, followed):
            with scratch_folder(self.places.models) as scratch:
                weights = scratch / "weights.pth"
                outcome = self._train(identity, position, weights, followers, resume, splits)
            resume.remove()
            followed.end = replace(
                followed.end,
                status="diverged" if outcome.diverged else "finished",
                reason=outcome.diverged,
                metrics={split: _named(values) for split, values in outcome.metrics.items()},
                chosen_epoch=outcome.chosen_epoch,
            )
        return outcome

    def forget(self, seed: int) -> None:
        """Remove the state of a training that is not to go on."""
        self._resume_point(self.identity(seed)).remove()

    @contextmanager
    def _followed(
        self, start: RunStart, callbacks: Sequence[Callback]
    ) -> Iterator[tuple[list[Callback], Following]]:
        """All who are told of a training, and how it ends."""
        trackers = tracking.trackers(self.options.track, self.places.results)
        followers = [*trackers, *self.options.callbacks, *callbacks]  # one of theirs may stop it
        if self.options.verbose_level > 0:
            followers.append(ProgressBar())
        with following(followers, start) as followed:
            yield followers, followed

    def _check_folders(self, identity: RunIdentity) -> None:
        """Find out before training whether its result can be kept; tidy up after dead processes."""
        longest = new_file(self._checkpoint_path(identity)).name
        check_writable(self.places.models, _MODELS_BYTES, longest)
        check_writable(self.places.logs, _LOG_BYTES)

    def identity(self, seed: int) -> RunIdentity:
        """What makes the run of this seed the run it is."""
        return run_identity(self.args, self._fingerprint(), seed, self.marks)

    def _fingerprint(self) -> str:
        """Of the data that are read, or would be: their arrays are not needed to look a run up."""
        read = self.__dict__.get("features", self._given)
        if read is not None:
            return str(read.fingerprint)
        return fingerprint(self._base_file(), **self.other_features)

    def _base_file(self) -> str | os.PathLike[str] | None:
        others = self.other_features.values()
        path = base_file(self.custom_feature, self.args.featurePath, others)
        if path == "":
            raise FeatureFileError(
                f"data set {self.args.dataset_name!r} names no feature file; give it: -f FILE, in "
                "Python custom_feature=FILE."
            )
        if path is not None and (reason := _why_no_features(path)):
            raise FeatureFileError(
                f"{shown(path)}: {reason}. Set the environment variable {DATA_ROOT_VARIABLE} to "
                "the folder with MMSA's data (it holds MOSI/, MOSEI/, SIMS/), or give the file: "
                "-f FILE, in Python custom_feature=FILE; -Ft, -Fa and -Fv together need no other; "
                "`mmsa-ext run --synthetic` needs no data."
            )
        for name, other in self.other_features.items():
            if other and (reason := _why_no_features(other)):
                raise FeatureFileError(f"{shown(other)} ({name}): {reason}.")
        return path

    def _read_features(self) -> FeatureSet:
        features = read_features(
            self._base_file(),
            mmsa_bridge.data_set(self.args),
            front_padding=self.args.get("front_padding"),
            **self.other_features,
        )
        for warning in features.report.warnings:
            logger.warning("%s", warning)
        return features

    def _look_up(self, identity: RunIdentity) -> RunRecord | None:
        try:
            known = self.store.find(identity)
        except StoreError as error:
            logger.warning("%s The seed is run again; the file is kept aside.", error)
            return None
        if known is None:
            return None
        logger.info("Seed %d: found in the store, not repeated.", identity.seed)
        self.store.settle(known, self._checkpoint_path(identity))
        if known.finished and not self._checkpoint_path(identity).is_file():
            logger.info(
                "Its checkpoint is not in %s; run again with reuse=False (--repeat) to get one.",
                self.places.models,
            )
        return known

    def _check_metric(self) -> None:
        """Refuse a `KeyEval` that the data set's metrics do not have."""
        scored = mmsa_bridge.metrics(mmsa_bridge.data_set(self.args))
        known = ["Loss", *scored(torch.tensor([1.0, -1.0]), torch.tensor([1.0, -1.0]))]
        key = self.args.get("KeyEval", "Loss")
        if key not in known:
            raise ConfigError(
                f"KeyEval {key!r} is no metric of {self.args.dataset_name}; {suggest(key, known)}"
            )

    def _train(
        self,
        identity: RunIdentity,
        position: int,
        weights: Path,
        callbacks: Sequence[Callback],
        resume: ResumePoint,
        splits: Collection[str] = SPLITS,
    ) -> SeedOutcome:
        args = mmsa_bridge.complete_args(
            self.args,
            device=self.device,
            model_save_path=weights,
            custom_feature=self.custom_feature,
            cur_seed=position,
            **self.other_features,
        )
        try:
            with mmsa_bridge.provided_features(self._seen_features):
                known = self._trained_on_clean_data(identity) if "test" in splits else None
                if known is not None:
                    try:
                        return self._score_corrupted(args, *known)
                    except CheckpointError as error:
                        logger.warning("%s The model is trained anew.", error)
                if trains_in_mmsa(args.model_name):
                    with mmsa_keys.explained(self.args):
                        return run_stock_seed(
                            args, identity.seed, self.options.loaders, callbacks, splits
                        )
            return run_extension_seed(
                args, self._seen_features, identity.seed, callbacks, resume, splits
            )
        except CallbackError as failed:
            raise failed.error from failed.error.__cause__
        except MMSAExtError:
            raise
        except (OSError, RuntimeError):  # torch's writer raises the latter
            check_writable(weights.parent, _MODELS_BYTES)  # says so if the disk is why
            raise
        finally:
            weights.unlink(missing_ok=True)  # the checkpoint has room in its place

    def _trained_on_clean_data(self, identity: RunIdentity) -> tuple[RunRecord, Checkpoint] | None:
        """The run that differs only in that its test split is whole, if its weights are there."""
        if self.corruption is None or self.corruption.at != "test" or not self.reuse:
            return None
        clean = {k: v for k, v in identity.configuration.items() if k != "corruption"}
        twin = identity.model_copy(update={"configuration": clean})
        path = self._checkpoint_path(twin)
        try:
            record = self.store.find(twin)
            if record is None or not record.finished or not path.is_file():
                return None
            if record.checkpoint_sha256 not in (None, file_digest(path)):
                raise CheckpointError(f"{path}: not the checkpoint that its record was made with.")
            checkpoint = load_checkpoint(path)
        except (StoreError, CheckpointError, OSError) as error:
            logger.warning("%s The model is trained anew.", error)
            return None
        if checkpoint.seed != identity.seed or self._differ(checkpoint.config):
            logger.warning(
                "%s: of another run than its name says. The model is trained anew.", path
            )
            return None
        return record, checkpoint

    def _differ(self, config: dict[str, Any]) -> bool:
        """Whether a checkpoint was trained with another configuration, corruption aside."""
        aside = {"corruption", "text_encoder_config", "pretrained"}  # the last may be another path
        pairs = (identity_config(self.args), config)
        ours, theirs = ({k: v for k, v in pair.items() if k not in aside} for pair in pairs)
        return ours != theirs

    def _score_corrupted(
        self, args: EasyDict, clean: RunRecord, checkpoint: Checkpoint
    ) -> SeedOutcome:
        """The outcome of training anew, whose weights would be the same, without training."""
        weights = self._checkpoint_path(clean.identity)
        args = EasyDict({**args, "model_save_path": weights})
        if trains_in_mmsa(args.model_name):
            outcome = score_stock_seed(args, checkpoint.state_dict, self.options.loaders)
        else:
            outcome = score_extension_seed(args, self._seen_features, checkpoint.state_dict)
        outcome.history = [epoch.model_dump() for epoch in clean.history]
        outcome.chosen_epoch = clean.chosen_epoch
        outcome.text_encoder_config = checkpoint.config.get("text_encoder_config")
        outcome.notes = (f"weights of the same run on whole data, {weights.name}",)
        return outcome

    @cached_property
    def _scaling(self) -> FeatureScaling | None:
        return self.features.fit_scaling() if wants_scaling(self.args) else None

    @cached_property
    def _seen_features(self) -> FeatureSet:
        in_mmsa = trains_in_mmsa(self.args.model_name)
        return seen_features(self.features, self._scaling, self.corruption, in_mmsa=in_mmsa)

    def _record(
        self,
        identity: RunIdentity,
        outcome: SeedOutcome,
        notes: tuple[str, ...],
        checkpoint: str | None,
    ) -> RunRecord:
        return RunRecord.model_validate(
            {
                "identity": identity,
                "status": "diverged" if outcome.diverged else "finished",
                "reason": outcome.diverged,
                "metrics": {split: _named(values) for split, values in outcome.metrics.items()},
                "history": [
                    {**epoch, **{key: _named(epoch.get(key, {})) for key in ("train", "valid")}}
                    for epoch in outcome.history
                ],
                "chosen_epoch": outcome.chosen_epoch,
                "selection": _selection_rule(self.args),
                "environment": _environment(self.device),
                "timings": outcome.timings,
                "peak_memory_mb": outcome.peak_memory_mb,
                "checkpoint": checkpoint,
                "recipe": self.features.recipe,
                "notes": (
                    *self.notes,
                    *corruption.notes(self.corruption),
                    *self._data_notes(),
                    *outcome.notes,
                    *notes,
                ),
            }
        )

    def _data_notes(self) -> list[str]:
        """What the reader of the features had to say, with file names instead of paths."""
        paths = [self.features.path, *filter(None, self.other_features.values())]
        notes = []
        for note in self.features.report.warnings:
            for path in paths:
                note = note.replace(str(path), Path(path).name)
            notes.append(note)
        return notes

    def _save_checkpoint(
        self, identity: RunIdentity, outcome: SeedOutcome, path: Path
    ) -> tuple[str, ...]:
        """Write the checkpoint; a failure to do so costs the checkpoint, not the results."""
        if outcome.diverged or not outcome.state_dict:
            return ()
        config = identity_config(self.args)
        if outcome.text_encoder_config is not None:
            config["text_encoder_config"] = outcome.text_encoder_config
        scaling = None if self._scaling is None else self._scaling.plain()
        weights, recipe = outcome.state_dict, self.features.recipe
        checkpoint = Checkpoint(config, identity.seed, weights, outcome.metrics, scaling, recipe)
        try:
            save_checkpoint(path, checkpoint)
        except OSError as error:
            logger.error("%s The metrics and predictions are whole, and go into the record.", error)
            return ("the checkpoint could not be written; the metrics and predictions are whole",)
        return ()

    def _checkpoint_path(self, identity: RunIdentity) -> Path:
        return self.places.models / identity.checkpoint_name

    def _resume_point(self, identity: RunIdentity) -> ResumePoint:
        """Where the state of a training lies until its result is stored."""
        path = self._checkpoint_path(identity).with_suffix(".resume")
        return ResumePoint(path, f"{identity.digest} {_environment(self.device).describe()}")

    def _result(self, record: RunRecord, *, reused: bool) -> SeedResult:
        checkpoint = self._checkpoint_path(record.identity)
        return SeedResult(
            seed=record.identity.seed,
            metrics=record.metrics.get("test", {}),
            diverged=not record.finished,
            checkpoint=checkpoint if record.finished and checkpoint.is_file() else None,
            record_path=self.store.path(record.identity),
            record=record,
            reused=reused,
        )

    def _draw(self, results: Sequence[SeedResult]) -> tuple[Path, ...]:
        from MMSA_ext.reporting.figures import curves_overview, save, training_curves

        folder = self.places.results / "figures" / self.args.dataset_name / self.args.model_name
        folder.mkdir(parents=True, exist_ok=True)
        drawn: list[Path] = []
        for result in results:
            path = folder / f"{result.record_path.stem}.png"
            known = result.reused and path.is_file()
            drawn += [path] if known else save(training_curves(result.record), path)
        if len(results) > 1:
            overview = curves_overview([result.record for result in results])
            drawn += save(overview, folder / "seeds.png")
        return tuple(drawn)


def _named(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Values by names that a record may have; a model may call its own ones anything."""
    return {metric_name(name): value for name, value in values.items()}


def _start(identity: RunIdentity, resume: ResumePoint) -> RunStart:
    return RunStart(
        identity.model,
        identity.dataset,
        identity.seed,
        identity.short_id,
        deepcopy(identity.configuration),
        tuple(map(EpochProgress.of, resume.epochs())),
    )


@contextmanager
def _unharmed(what: str) -> Iterator[None]:
    """Report a failure to write `what` and go on: the records are on disk already."""
    try:
        yield
    except Exception as error:  # nothing that is only shown may cost a computed result
        logger.error("Could not write %s: %s. The records are safe.", what, error)


def _selection_rule(args: EasyDict) -> str:
    """The rule that chose the epoch, as a phrase."""
    key = args.get("KeyEval", "Loss")
    own = not trains_in_mmsa(args.model_name)
    lowest = key in MINIMISED if own else key == "Loss"
    patience = args.get("early_stop")
    rule = [f"{'lowest' if lowest else 'highest'} validation {key}"]
    if own and args.get("selection_digits") is not None:
        rule.append(f"rounded to {args.selection_digits} digits")
    first = min(args.get("first_selected_epoch", 1), args.get("num_epochs") or 1)
    if own and first > 1:
        rule.append(f"from epoch {first} on")
    rule.append("no early stop" if patience is None else f"patience {patience}")
    if own and patience is not None and args.get("warmup_ratio"):
        rule[-1] += " after warm-up"
    if not own and (cap := args.get("num_epochs")):
        rule.append(f"at most {cap} epoch{'s' * (cap > 1)}")
    return ", ".join(rule)


def _environment(device: torch.device) -> Environment:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    extra = {"MMSA_ext": __version__}
    if device.type == "cuda":
        extra["cuda"] = str(torch.version.cuda)
    return describe_environment(name, threads=torch.get_num_threads(), extra_versions=extra)


def _why_no_features(path: str | os.PathLike[str]) -> str:
    """`why_no_file`; of a folder nothing, for shards are one, and whoever reads them says more."""
    return "" if Path(path).is_dir() else why_no_file(path, "feature file")
