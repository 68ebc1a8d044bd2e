r"""Time and peak memory of a training step and of an inference pass, each beside its floor.

    python benchmarks/step.py
    python benchmarks/step.py --datasets mosi mosei sims --repeats 3
    python benchmarks/step.py --models dashfusion dashfusion_plain --reference dashfusion_plain
    python benchmarks/step.py --models dashfusion dashfusion@bank --reference dashfusion \
        --set dashfusion@bank:retrieved_features=bank

Data are generated at the data sets' official dimensions with ragged lengths (SIMS: 8 to 39 tokens,
about 60 to 400 audio and 8 to 55 vision frames). Every model trains in its real trainer, MMSA's own
in MMSA's, each measurement in a process of its own, the models of a run in turn. A step is timed
from batch to batch, reading of the batch included, as the mean over the batches between two updates
of the weights; of these the median is taken, and the median of that over repetitions. Where an
epoch goes over the data twice (MMIM), a step is one batch of each pass.

The floor is the time that the model's floating-point operations on valid tokens would take at the
rate of a large float32 matrix product, measured in the same process. They are counted with
`torch.utils.flop_counter` on single samples without padding: one forward and backward pass of each
distinct sample of a step (of DashFusion's retrieved samples, of what is before the fusion). Losses
between samples, normalisations, activations and the optimizer count nothing. Operations of a sample
are a polynomial of second degree in its three lengths, which is fitted to some samples and checked
on others; `count_error` is the largest relative error there.

Memory of a step or pass is the peak while it runs less what the process held before training with
model and data in it; so gradients and the optimizer's state belong to a step. Ratios to the
reference, the host of an `_infoenh` variant or `--reference`, are medians over repetitions of the
ratio within a turn.

A name may be followed by `@ANYTHING`, to measure a model more than once with different `--set`.
`--register` names files that are imported first and whose function `register()`, if there is one,
is called; `plain.py` beside this file always is.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import floor
import measuring
import torch
from easydict import EasyDict

from MMSA_ext import mmsa_bridge, text_encoders
from MMSA_ext.config.resolve import get_config_regression, resolve, unread
from MMSA_ext.data import synthetic
from MMSA_ext.data.features import read_features
from MMSA_ext.data.loader import FeatureLoader, make_loaders
from MMSA_ext.errors import MMSAExtError, TrainingDivergedError
from MMSA_ext.models.contract import Inputs, core_model
from MMSA_ext.models.dashfusion import DashFusion
from MMSA_ext.processes import peak_rss_mb
from MMSA_ext.registry import check_names, get_model, trains_in_mmsa
from MMSA_ext.training.step_log import StepLog
from MMSA_ext.training.steps import StepSampler
from MMSA_ext.training.trainer import predict
from MMSA_ext.training.transfer import to_device

DATASETS = ("mosi", "mosei", "sims")
HOSTS = ("self_mm", "misa", "mmim", "confede")
MODELS = ("dashfusion", *(f"{host}{kind}" for host in HOSTS for kind in ("", "_infoenh")), "mult")
PLAIN = Path(__file__).with_name("plain.py")
# Written otherwise, but the same mathematics: configuration and floor are those of the other.
SAME_AS = {"dashfusion_plain": "dashfusion"}
PASSES = 3  # timed inference passes


# --- What is measured: a model in its trainer ---


class Clock:
    """Times of batches in each pass over the training data, and the peak of memory meanwhile.

    Attributes:
        passes: Of each pass, the times at which a batch was finished.
        peak_mb: Peak memory since the first batch that counts, MiB.
    """

    def __init__(self, warm_up: int, memory: Memory) -> None:
        self.passes: list[list[float]] = []
        self.peak_mb = 0.0
        self._warm_up, self._memory = warm_up, memory

    def begin_pass(self) -> None:
        """What is ticked from now on belongs to another pass."""
        self.passes.append([])

    def tick(self) -> None:
        """A batch begins, or the last one is finished."""
        self._memory.synchronise()
        times = self.passes[-1]
        if len(times) == self._warm_up:
            self._memory.restart()
        elif len(times) > self._warm_up:
            self.peak_mb = max(self.peak_mb, self._memory.peak_mb())
        times.append(time.perf_counter())

    def steps(self, number: int) -> list[float]:
        """Seconds of each batch of a pass, those of the warm-up left out."""
        taken = [after - before for before, after in itertools.pairwise(self.passes[number])]
        return taken[self._warm_up :]


class Memory:
    """Memory of this process, or of its accelerator: now and at its peak, MiB."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = torch.cuda if device.type == "cuda" else None

    def synchronise(self) -> None:
        """Wait for the accelerator."""
        if self._cuda is not None:
            self._cuda.synchronize()

    def restart(self) -> None:
        """Forget the peak so far (on Linux; elsewhere the peak is that of the process's life)."""
        if self._cuda is not None:
            self._cuda.reset_peak_memory_stats()
            return
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        """The peak since `restart`."""
        if self._cuda is not None:
            return float(self._cuda.max_memory_allocated() / 2**20)
        return peak_rss_mb()

    def now_mb(self) -> float:
        """What is held now."""
        gc.collect()
        self.restart()
        return self.peak_mb()


@dataclass
class Subject:
    """A model, its data and its trainer: of this package, or of MMSA.

    Attributes:
        args: Configuration.
        network: The model, in MMSA's wrapper.
        loaders: Loaders by split.
        trainer: Trainer; None before `train`.
        batches: Of every training batch: indices of its anchors, and of the other samples that are
            encoded with them.
    """

    args: EasyDict
    network: torch.nn.Module
    loaders: dict[str, Any]
    trainer: Any = None
    batches: list[tuple[list[int], list[int]]] = field(default_factory=list)

    @property
    def window(self) -> int:
        """Batches between two updates of the weights."""
        return int(self.args.get("update_epochs") or 1)


class OurSubject(Subject):
    """A model of this package in `MMSA_ext.training.trainer.Trainer`, or what it names instead."""

    @classmethod
    def load(cls, args: EasyDict) -> OurSubject:
        """Read the data and build the model."""
        features = read_features(args.featurePath, args.dataset_name)
        loaders = make_loaders(features, args.batch_size, args.eval_batch_size)
        return cls(args, mmsa_bridge.build_model(args).to(args.device), loaders)

    def train(self, clock: Clock, steps: int) -> None:
        """Train for some steps."""

        class FirstBatches(FeatureLoader):
            def indices(self) -> Iterator[Any]:
                clock.begin_pass()
                clock.tick()
                return full_batches(super().indices, self.batch_size, steps)

        assembled, add = StepSampler._assembled, StepLog.add

        def noted(sampler: StepSampler, anchors: torch.Tensor, drawn: Any) -> Any:
            made = assembled(sampler, anchors, drawn)
            others = set(made.samples["index"].tolist()) - set(anchors.tolist())
            self.batches.append((anchors.tolist(), sorted(others)))
            return made

        def ticked(*given: Any) -> None:
            add(*given)
            clock.tick()

        train = self.loaders["train"]
        self.loaders["train"] = FirstBatches(train.split, train.batch_size, shuffle=True)
        self.trainer = get_model(self.args.model_name).trainer(self.args)
        # A few steps need not beat the untrained model, which the trainer asks of a run.
        with (
            # On the host, where looking makes no device wait and no compiler stumble.
            patch.object(StepSampler, "_assembled", noted),
            patch.object(StepLog, "add", ticked),
            contextlib.suppress(TrainingDivergedError),
        ):
            self.trainer.do_train(self.network, self.loaders)

    def predict(self) -> None:
        """Go over the test split once."""
        predict(core_model(self.network), self.loaders["test"], self.args.device)

    def lengths(self, split: str) -> list[tuple[int, int, int]]:
        """Valid tokens and frames of every sample."""
        data = self.loaders[split].split
        tokens = data.text_bert[:, 1].sum(axis=-1).astype(int).tolist()
        frames = data.audio_lengths.tolist(), data.vision_lengths.tolist()
        return list(zip(tokens, *frames, strict=True))

    def work(self, split: str, part: str, sample: int) -> Callable[[], Any]:
        """What is computed of one sample: `outputs`, or what is `encoded` of a retrieved one."""
        core = core_model(self.network)
        batch = self.loaders[split].split.batch(torch.tensor([sample]))
        given = Inputs.of(to_device(batch, self.args.device))
        if part == "encoded" and isinstance(core, DashFusion):
            return lambda: core.represent(given).globals
        return lambda: core(given)


class StockSubject(Subject):
    """One of MMSA's own models, or a variant of one, in MMSA's trainer."""

    with_lengths = False

    @classmethod
    def load(cls, args: EasyDict) -> StockSubject:
        """Read the data and build the model."""
        if "pretrained" in args:
            args.pretrained = text_encoders.resolve(args.pretrained)
        loaders = mmsa_bridge.stock_loaders(args)
        return cls(args, mmsa_bridge.build_model(args).to(args.device), loaders)

    def train(self, clock: Clock, steps: int) -> None:
        """Train for some steps of every pass over the training data."""
        subject = self

        class FirstBatches:
            def __init__(self, loader: Any) -> None:
                self._loader = loader

            def __iter__(self) -> Iterator[Any]:
                clock.begin_pass()
                subject.batches.clear()
                batches = full_batches(lambda: self._loader, subject.args.batch_size, steps)
                for batch in batches:
                    subject.batches.append((batch["index"].tolist(), []))
                    clock.tick()
                    yield batch
                clock.tick()

            def __len__(self) -> int:
                return steps

            def __getattr__(self, name: str) -> Any:
                return getattr(self._loader, name)

        called: set[int] = set()

        def note(module: Any, inputs: tuple[Any, ...]) -> None:
            called.add(len(clock.passes) - 1)
            self.with_lengths = isinstance(inputs[1], tuple)

        hook = self.network.register_forward_pre_hook(note)
        self.trainer = mmsa_bridge.build_trainer(self.args)
        loaders = {**self.loaders, "train": FirstBatches(self.loaders["train"])}
        self.trainer.do_train(self.network, loaders)
        hook.remove()
        # Self-MM reads the labels in a pass of its own, without calling the model.
        clock.passes = [times for number, times in enumerate(clock.passes) if number in called]

    def predict(self) -> None:
        """Go over the test split once."""
        self.trainer.do_test(self.network, self.loaders["test"], mode="TEST")

    def lengths(self, split: str) -> list[tuple[int, int, int]]:
        """Valid tokens and frames of every sample."""
        data = self.loaders[split].dataset
        return [self._lengths(data[i]) for i in range(len(data))]

    def _lengths(self, sample: dict[str, Any]) -> tuple[int, int, int]:
        text = sample["text"]
        tokens = int(text[1].sum()) if self.args.get("use_bert") else _frames(text)
        if "audio_lengths" in sample:
            return tokens, int(sample["audio_lengths"]), int(sample["vision_lengths"])
        return tokens, _frames(sample["audio"]), _frames(sample["vision"])

    def work(self, split: str, part: str, sample: int) -> Callable[[], Any]:
        """What is computed of one sample."""
        data = self.loaders[split].dataset[sample]
        tokens, *lengths = self._lengths(data)
        text = data["text"][..., :tokens] if self.args.get("use_bert") else data["text"][:tokens]
        given = [text[None].to(self.args.device)]
        for name, length in zip(("audio", "vision"), lengths, strict=True):
            # MISA reads as many frames as there are tokens.
            frames = data[name][None, : max(length, tokens)].to(self.args.device)
            given.append((frames, torch.tensor([length])) if self.with_lengths else frames)
        return lambda: self.network(*given)


def full_batches(again: Callable[[], Any], size: int, number: int) -> Iterator[Any]:
    """So many full batches, beginning anew where the data end."""

    def is_full(batch: Any) -> bool:
        return len(batch["index"] if isinstance(batch, dict) else batch) == size

    endless = itertools.chain.from_iterable(again() for _ in itertools.count())
    return itertools.islice(filter(is_full, endless), number)


def _frames(features: torch.Tensor) -> int:
    """Rows `(L, d)` up to the last that is not zero; one at least."""
    valid = features.ne(0).any(dim=-1).nonzero()
    return int(valid[-1]) + 1 if len(valid) else 1


def count(subject: Any) -> dict[str, dict[str, Any]]:
    """What a sample costs: `outputs` and `encoded` in training, `pass` in inference."""

    def cost(split: str, part: str, *, backward: bool) -> dict[str, Any]:
        work = partial(subject.work, split, part)
        return vars(floor.fitted_cost(subject.lengths(split), work, backward=backward))

    if subject.args.model_name in SAME_AS:
        base = EasyDict({**subject.args, "model_name": SAME_AS[subject.args.model_name]})
        subject.network = mmsa_bridge.build_model(base).to(base.device)
    subject.network.eval()
    found = {"outputs": cost("train", "outputs", backward=True)}
    if any(others for _, others in subject.batches):
        found["encoded"] = cost("train", "encoded", backward=True)
    return found | {"pass": cost("test", "outputs", backward=False)}


# --- One measurement, in a process of its own ---


def configuration(task: dict[str, Any], folder: str) -> EasyDict:
    """MMSA's `args` of a task."""
    model = name_of(task["model"])
    base = SAME_AS.get(model, model)
    short: dict[str, Any] = {"num_epochs": 1}
    if trains_in_mmsa(base):
        short["early_stop"] = 0  # one epoch there too
    if base.startswith("confede"):
        short["stage_one"] = None
    given = {"featurePath": task["features"], **short}
    if not unread(get_config_regression(base, task["dataset"]) | task["overrides"], ["pretrained"]):
        given["pretrained"] = task["pretrained"]
    if task["batch_size"]:
        given["batch_size"] = task["batch_size"]
    args = mmsa_bridge.complete_args(
        resolve(base, task["dataset"], "", given | task["overrides"]),
        device=torch.device(task["device"]),
        model_save_path=Path(folder, "weights.pth"),
    )
    args.model_name = model
    return args


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Train some steps, predict, and count operations if asked to, in this process."""
    register(task["register"])
    kind: Any = StockSubject if trains_in_mmsa(name_of(task["model"])) else OurSubject
    with (
        mmsa_bridge.registered(),
        mmsa_bridge.progress_bars(False),
        tempfile.TemporaryDirectory() as folder,
    ):
        args = configuration(task, folder)
        mmsa_bridge.setup_seed(1111)
        memory = Memory(args.device)
        rates = [floor.product_rate(args.device)]
        subject = kind.load(args)
        held = memory.now_mb()
        counted = -(-task["steps"] // subject.window) * subject.window
        clock = Clock(task["warm_up"], memory)
        if len(subject.lengths("train")) < args.batch_size:
            sys.exit(f"batches of {args.batch_size} need as many --samples at least")
        subject.train(clock, task["warm_up"] + counted)
        if not clock.passes or len(clock.steps(0)) < counted:
            sys.exit("training ended before all steps were timed; its loss may not be finite")
        rates.append(floor.product_rate(args.device))
        inference = timed_pass(subject, memory)
        rates.append(floor.product_rate(args.device))
        return {
            "batch_size": args.batch_size,
            "passes": len(clock.passes),
            "steps": step_times(subject, clock),
            "step_mb": clock.peak_mb - held,
            "total_mb": clock.peak_mb,
            "pass_seconds": inference,
            "pass_mb": memory.peak_mb() - held,
            "pass_terms": floor.summed_terms(subject.lengths("test")),
            "pass_samples": len(subject.lengths("test")),
            "rate": statistics.median(rates),
            "cost": count(subject) if task["count"] else None,
        }


def timed_pass(subject: Any, memory: Memory) -> float:
    """Median seconds of inference passes; the peak of memory is that of the last."""

    def once() -> None:
        memory.restart()
        subject.predict()
        memory.synchronise()

    return measuring.median_seconds(once, PASSES)


def step_times(subject: Any, clock: Clock) -> list[dict[str, Any]]:
    """Every step: its seconds, its samples, and the terms of their lengths."""
    window, lengths = subject.window, subject.lengths("train")
    passes = [clock.steps(number) for number in range(len(clock.passes))]
    counted = subject.batches[-len(passes[0]) :]
    steps = []
    for start in range(0, len(passes[0]) - window + 1, window):
        here = slice(start, start + window)
        anchors = [i for batch, _ in counted[here] for i in batch]
        others = [i for _, batch in counted[here] for i in batch]
        steps.append(
            {
                "seconds": sum(sum(times[here]) for times in passes) / window,
                "samples": len(anchors + others) / window,
                "outputs": [x / window for x in floor.summed_terms([lengths[i] for i in anchors])],
                "encoded": [x / window for x in floor.summed_terms([lengths[i] for i in others])],
            }
        )
    return steps


def register(files: Sequence[str]) -> None:
    """Import files that register further models."""
    for file in files:
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        if spec is None or spec.loader is None:
            sys.exit(f"--register: {file} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        if hasattr(module, "register"):
            module.register()


# --- The run ---

Runs = dict[str, dict[str, list[dict[str, Any]]]]  # by data set and model, in turns


def rows(runs: Runs, chosen: str | None) -> Iterator[dict[str, Any]]:
    """The lines of the result, for as many turns as every compared model has."""
    for dataset, by_model in runs.items():
        for model, measured in by_model.items():
            name = reference_of(model, list(by_model), chosen)
            others = by_model.get(name or "", [])
            turns = min(len(measured), len(others)) if name else len(measured)
            if turns:
                reference = (name, others[:turns]) if name else None
                yield row(dataset, model, measured[:turns], reference)


def row(
    dataset: str,
    model: str,
    runs: Sequence[dict[str, Any]],
    reference: tuple[str, Sequence[dict[str, Any]]] | None,
) -> dict[str, Any]:
    """One line of the result: medians over the repetitions of a model."""
    counted = next(run["cost"] for run in runs if run["cost"])
    cost = {part: floor.Cost(**found) for part, found in counted.items()}
    floors = [step_floors(run, cost) for run in runs]
    times = [[step["seconds"] for step in run["steps"]] for run in runs]
    passes = [run["pass_seconds"] / run["pass_samples"] for run in runs]
    pass_floors = [
        cost["pass"].of(run["pass_terms"]) / run["pass_samples"] / run["rate"] for run in runs
    ]
    result: dict[str, Any] = {
        "dataset": dataset,
        "model": model,
        "batch_size": runs[0]["batch_size"],
        "samples_a_step": _median(step["samples"] for run in runs for step in run["steps"]),
        "passes": runs[0]["passes"],
        "step_s": f"{_median(map(statistics.median, times)):.4f}",
        "step_floor_s": f"{_median(map(statistics.median, floors)):.4f}",
        "step_over_floor": f"{_median(map(_median_ratio, times, floors)):.2f}",
        "step_mb": f"{_median(run['step_mb'] for run in runs):.0f}",
        "inference_ms": f"{1e3 * _median(passes):.2f}",
        "inference_floor_ms": f"{1e3 * _median(pass_floors):.2f}",
        "inference_over_floor": f"{_median_ratio(passes, pass_floors):.2f}",
        "inference_mb": f"{_median(run['pass_mb'] for run in runs):.0f}",
        "total_mb": f"{_median(run['total_mb'] for run in runs):.0f}",
        "product_gflops": f"{_median(run['rate'] for run in runs) / 1e9:.0f}",
        "count_error": f"{max(part.error for part in cost.values()):.1e}",
    }
    if reference is not None:
        name, others = reference
        theirs = [statistics.median(step["seconds"] for step in run["steps"]) for run in others]
        result |= {
            "reference": name,
            "step_ratio": f"{_median_ratio(map(statistics.median, times), theirs):.3f}",
            "step_mb_ratio": f"{_pairs(runs, others, 'step_mb'):.3f}",
            "inference_ratio": f"{_pairs(runs, others, 'pass_seconds'):.3f}",
        }
    return result | {"repeats": len(runs)}


def step_floors(run: dict[str, Any], cost: dict[str, floor.Cost]) -> list[float]:
    """Seconds that each step would take at the rate of a matrix product."""
    return [
        run["passes"]
        * sum(part.of(step[name]) for name, part in cost.items() if name in step)
        / run["rate"]
        for step in run["steps"]
    ]


def _median(values: Any) -> float:
    return statistics.median(values)


def _median_ratio(values: Any, others: Any) -> float:
    return statistics.median(a / b for a, b in zip(values, others, strict=True))


def _pairs(runs: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], key: str) -> float:
    return _median_ratio([run[key] for run in runs], [run[key] for run in others])


def reference_of(model: str, models: Sequence[str], chosen: str | None) -> str | None:
    """The model that another one of the run is compared with."""
    if chosen is not None:
        return None if model == chosen else chosen
    host = model.replace("_infoenh", "")
    return host if host != model and host in models else None


def name_of(model: str) -> str:
    """The model of `NAME` or `NAME@ANYTHING`."""
    return model.partition("@")[0]


def overrides_of(model: str, settings: Sequence[str]) -> dict[str, Any]:
    """`--set` for one model: `KEY=VALUE` holds for all, `MODEL:KEY=VALUE` for one."""
    found: dict[str, Any] = {}
    for setting in settings:
        key, _, given = setting.partition("=")
        name, _, key = key.rpartition(":")
        if name in ("", model):
            try:
                found[key] = json.loads(given)
            except json.JSONDecodeError:
                found[key] = given
    return found


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=["sims"])
    parser.add_argument("--reference", help="a model of the run, compared with all others")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16, help="0: what each model trains with")
    parser.add_argument("--steps", type=int, default=4, help="batches that count, at least")
    parser.add_argument("--warm-up", type=int, default=2, help="batches before those")
    parser.add_argument("--samples", type=int, default=512, help="of the training split")
    parser.add_argument("--test-samples", type=int, default=64)
    parser.add_argument("--pretrained", default="minilm", help="text encoder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", nargs="+", default=[], metavar="[MODEL:]KEY=VALUE")
    parser.add_argument("--register", nargs="+", default=[], metavar="FILE")
    parser.add_argument("--out", help="CSV file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is None:
        check(parser, options)
    return options


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse wrong options before anything is measured."""
    options.register = [str(PLAIN), *options.register]
    for file in options.register:
        if not Path(file).is_file():
            parser.error(f"--register: there is no file {file}")
    register(options.register)
    for model, dataset in itertools.product(options.models, options.datasets):
        try:
            check_names(name_of(model), dataset)
        except MMSAExtError as error:
            parser.error(str(error))
    if options.reference is not None and options.reference not in options.models:
        parser.error(f"--reference: {options.reference} is not among --models")
    if min(options.repeats, options.steps, options.warm_up, options.samples) < 1:
        parser.error("--repeats, --steps, --warm-up and --samples must be at least 1")
    for setting in options.set:
        if "=" not in setting:
            parser.error(f"--set: {setting!r} is not KEY=VALUE or MODEL:KEY=VALUE")
        model = setting.partition("=")[0].rpartition(":")[0]
        if model and model not in options.models:
            parser.error(f"--set: {model} is not among --models")


def main() -> None:
    """Measure all models on all data sets in turn."""
    options = parse()
    if options.child is not None:
        print(json.dumps(measure(json.loads(options.child))))
        return
    runs: Runs = {}
    try:
        for dataset in options.datasets:
            runs[dataset] = {model: [] for model in options.models}
            measure_in_turns(dataset, options, runs[dataset])
    finally:  # what is measured is written, also where a model fails or the user stops
        measuring.write_csv(list(rows(runs, options.reference)), options.out)


def measure_in_turns(
    dataset: str, options: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]
) -> None:
    """Measure the models on one data set in turns, in processes of their own."""
    shared = {
        name: getattr(options, name)
        for name in ("steps", "warm_up", "batch_size", "pretrained", "device", "register")
    }
    with tempfile.TemporaryDirectory() as folder:
        features = str(Path(folder, f"{dataset}.pkl"))
        sizes = (options.samples, 16, options.test_samples)
        synthetic.write(features, dataset, sizes=sizes, text_features=True)
        for repeat, model in itertools.product(range(options.repeats), options.models):
            own = {
                "model": model,
                "dataset": dataset,
                "features": features,
                "overrides": overrides_of(model, options.set),
                "count": repeat == 0,
            }
            run = measuring.run_in_process([json.dumps(shared | own)])
            runs[model].append(run)
            seconds = statistics.median(step["seconds"] for step in run["steps"])
            print(f"{dataset} {model}: {seconds:.3f} s a step", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
