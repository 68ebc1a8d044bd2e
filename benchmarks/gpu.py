"""What a GPU does with this package, in nine minutes: right numbers, speed, memory.

    bash benchmarks/gpu.sh                          # on a machine with a GPU
    python benchmarks/gpu.py --device cpu --quick   # a rehearsal

No figure of a GPU is known yet: all this was only rehearsed on a CPU.

First the tests in `tests/device` compare the device with the CPU; then steps are measured with a
text encoder of BERT-base's size (random weights), the most telling settings first, until the time
is over. Models train in their real trainers, on generated data of the data sets' dimensions and
ragged lengths, all in one process; MMSA's own models know neither bf16 nor compilation,
and MulT, as MMSA configures it, reads features of text instead of an encoder's.

`gpu-MACHINE.csv` says in its first lines what the machine is, at what rates it multiplies large
matrices, how the tests went and what was left out; then it has a row a setting:

    steps_s, samples_s    steps and anchors a second; the host waits before and after them all
    peak_mb               most memory that was allocated, weights and optimizer included (on a CPU
                          that of the process, earlier settings included)
    gflop_step            floating-point operations of matrix products and convolutions in a step,
                          as torch counts what is computed, padding included (of compiled steps: as
                          if they were not)
    utilisation           of the rate of a bf16 matrix product on this machine
    operations_step       operations of torch that a step asks for, views included
    kernels_step          kernels that the GPU ran; copies are not among them
    waits_step            times that the host waited for the GPU, as the profiler saw them
    warned_waits_step     the same, as torch.cuda.set_sync_debug_mode warns of them; the log says
                          where
    busy                  share of the time in which the GPU computed, while it was profiled
    took_s                what measuring this row took, loading included

`fp32` is what torch does by default: matrix products in float32, convolutions and recurrent layers
of cuDNN in TF32. `tf32` allows TF32 everywhere. Beside the table lies `gpu-MACHINE.log`: what the
tests and the models said.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import floor
import measuring
import pandas as pd
import step
import torch
from torch.autograd import DeviceType
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertModel

from MMSA_ext import mmsa_bridge
from MMSA_ext.data import synthetic
from MMSA_ext.registry import trains_in_mmsa

ROOT = Path(__file__).parents[1]
# What is most telling comes first.
MODELS = ("dashfusion", "self_mm", "text_only", "misa", "mult", "self_mm_infoenh")
DATASETS = ("mosi", "sims", "mosei")
BATCH_SIZES = (32, 16, 64)
PRECISIONS = ("fp32", "bf16", "tf32")
SAMPLES = (192, 16, 16)  # by split; the first at least a batch
LEFT_FOR_TESTS = 0.4  # of the time, at most
LONGEST_ROW = 100.0  # seconds
STARTING = 20.0  # seconds, about, that a process needs to its first row
WAITS = {"cudaStreamSynchronize", "cudaEventSynchronize"}

Task = dict[str, Any]
Row = dict[str, Any]


# --- What is measured ---


def plan(quick: bool, models: Sequence[str] = MODELS) -> list[Task]:
    """Settings by importance: one that is second in two respects is as far back as a third one.

    The compiler takes a minute or more, in which several others are measured.
    """
    datasets, sizes = (DATASETS[1:2], (4,)) if quick else (DATASETS, BATCH_SIZES)
    ranked = [
        (d + b + m // 2 + p + 2 * c, (dataset, size, model, precision, c))
        for d, dataset in enumerate(datasets)
        for b, size in enumerate(sizes)
        for m, model in enumerate(models)
        for p, precision in enumerate(PRECISIONS)
        for c in (0, 1)
        if not (trains_in_mmsa(model) and (precision == "bf16" or c))
        if not (precision == "tf32" and c)
    ]
    names = ("dataset", "batch_size", "model", "precision", "compiled")
    ordered = sorted(ranked, key=lambda ranks_and_setting: ranks_and_setting[0])
    return [dict(zip(names, setting, strict=True)) for _, setting in ordered]


def overrides(task: Task, quick: bool) -> dict[str, Any]:
    """The configuration of a setting, as far as it is one."""
    found: dict[str, Any] = {}
    if task["precision"] == "bf16":
        found["precision"] = "bf16"
    if task["compiled"]:  # the compiler itself would take minutes of a CPU
        found["compile"] = "eager" if quick else True
    return found


class Operations(TorchDispatchMode):
    """How many operations were asked for.

    Attributes:
        total: Their number.
    """

    total = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Count one."""
        self.total += 1
        return function(*args, **(kwargs or {}))


class Measured(Exception):  # noqa: N818 (nothing went wrong)
    """All that was to be measured is; training need not go on."""


class Window(step.Clock):
    """Batches after a warm-up: some that are timed, some that are profiled, some counted.

    Attributes:
        trains: Whether weights were changed; Self-MM goes over the data once before it trains.
        found: What was measured.
        places: Where the host waited.
    """

    def __init__(self, memory: step.Memory, task: Task, window: int) -> None:
        super().__init__(0, memory)
        self.trains = False
        self.found: Row = {}
        self.places: Counter[str] = Counter()
        self._compiled, self._cuda = bool(task["compiled"]), task["device"] != "cpu"
        quick = task["quick"]
        # The weights change once in so many batches.
        self._warm_up, self._timed, self._looked_at = (
            -(-count // window) * window for count in ((1, 2, 1) if quick else (6, 20, 10))
        )
        self._counted = window

    @property
    def batches(self) -> int:
        """How many there are."""
        parts = (self._warm_up, self._timed, 2 * self._looked_at, self._counted)
        return sum(parts)

    def begin_pass(self) -> None:
        """What is ticked from now on belongs to another pass."""
        super().begin_pass()
        self._phases = self._measured()

    def tick(self) -> None:
        """A batch begins, or the last one is finished.

        Raises:
            Measured: No batch is left.
        """
        next(self._phases)

    def note_update(self, *_: Any) -> None:
        """An optimizer has changed weights."""
        self.trains = True

    def _measured(self) -> Iterator[None]:
        yield from self._pass_by(self._warm_up)
        if not self.trains:
            yield from self._pass_by(self.batches - self._warm_up + 1)
        self._memory.synchronise()
        self._memory.restart()
        began = time.perf_counter()
        yield from self._pass_by(self._timed)
        self._memory.synchronise()
        self.found["step_s"] = (time.perf_counter() - began) / self._timed
        self.found["peak_mb"] = self._memory.peak_mb()
        with profile(activities=[getattr(ProfilerActivity, "CUDA" if self._cuda else "CPU")]) as p:
            yield from self._pass_by(self._looked_at)
        self.found |= profiled(p.events() or (), self._looked_at) if self._cuda else {}
        with waits_warned(self._cuda) as warned:
            yield from self._pass_by(self._looked_at)
        self.places = Counter(f"{w.filename}:{w.lineno}" for w in warned if is_wait(w))
        if self._cuda:
            self.found["warned_waits_step"] = self.places.total() / self._looked_at
        if self._compiled:  # it would be compiled anew, or not at all
            yield from self._pass_by(self._counted)
        else:
            with floor.counted() as flops, Operations() as operations:
                yield from self._pass_by(self._counted)
            self.found["flop_step"] = flops.get_total_flops() / self._counted
            self.found["operations_step"] = operations.total / self._counted
        raise Measured

    def _pass_by(self, batches: int) -> Iterator[None]:
        for _ in range(batches):
            yield


def profiled(events: Any, steps: int) -> Row:
    """What the profiler saw in some steps.

    Args:
        events: Its events: kernels and copies of the GPU, calls of the host.
        steps: How many steps.
    """
    on_gpu = [e for e in events if e.device_type == DeviceType.CUDA]
    # What the host has named is on the GPU's time line too.
    on_gpu = [e for e in on_gpu if not getattr(e, "is_user_annotation", False)]
    kernels = [e for e in on_gpu if not e.name.startswith(("Memcpy", "Memset"))]
    times = [(e.time_range.start, e.time_range.end) for e in on_gpu]
    span = max((end for _, end in times), default=0) - min((start for start, _ in times), default=0)
    return {
        "kernels_step": len(kernels) / steps,
        "waits_step": sum(e.name in WAITS for e in events) / steps,
        "busy": sum(end - start for start, end in times) / max(span, 1),
    }


@contextlib.contextmanager
def waits_warned(cuda: bool) -> Iterator[list[warnings.WarningMessage]]:
    """Warnings meanwhile, of waits for the device too."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if cuda:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield warned
        finally:
            if cuda:
                torch.cuda.set_sync_debug_mode("default")


def is_wait(warning: warnings.WarningMessage) -> bool:
    """Whether a warning is of a wait for the device."""
    return "synchronizing CUDA operation" in str(warning.message)


def measure(task: Task) -> Row:
    """Train some steps under a setting, in this process."""
    began = time.perf_counter()
    kind: Any = step.StockSubject if trains_in_mmsa(task["model"]) else step.OurSubject
    torch.set_float32_matmul_precision("high" if task["precision"] == "tf32" else "highest")
    with tempfile.TemporaryDirectory() as folder:
        args = step.configuration(task, folder)
        mmsa_bridge.setup_seed(1111)
        subject = kind.load(args)
        window = Window(step.Memory(args.device), task, subject.window)
        hook = register_optimizer_step_post_hook(window.note_update)
        try:
            subject.train(window, window.batches)
        except Measured:
            print(task, *window.places.most_common(12), sep="\n    ", file=sys.stderr, flush=True)
            return window.found | {"took_s": time.perf_counter() - began}
        finally:
            hook.remove()
    raise RuntimeError("training ended before all steps were measured")


# --- A process that measures, and the one that hands out what is to be measured ---


def serve(connection: Connection, log: Path) -> None:
    """Measure what comes, until something fails."""
    file = log.open("a")
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    with mmsa_bridge.registered(), mmsa_bridge.progress_bars(False):
        while True:
            try:
                connection.send(measure(connection.recv()))
            except Exception as error:
                traceback.print_exc()
                message = " ".join(str(error).split())
                connection.send({"failed": f"{type(error).__name__}: {message:.200}"})
                return  # memory may be lost, and a GPU that failed answers no more
            gc.collect()
            torch.compiler.reset()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


class Bench:
    """Measures one setting after the other until the time is over.

    Args:
        shared: What all tasks have in common.
        log: File for what models say.
        until: When the time is over, by `time.monotonic`.

    Attributes:
        left_out: What was not measured, and why.
    """

    def __init__(self, shared: Task, log: Path, until: float) -> None:
        self.shared, self.log, self.until = shared, log, until
        self.left_out: dict[str, str] = {}
        self._spawn = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._flops: dict[tuple[Any, ...], float] = {}
        self._failed: set[tuple[str, int]] = set()

    def rows(self, tasks: Sequence[Task], bf16_rate: float) -> Iterator[Row]:
        """A row for each task that could be measured."""
        for number, task in enumerate(tasks):
            left = self.until - time.monotonic()
            if left < (0 if self._process else STARTING):
                self.left_out[f"{len(tasks) - number} settings from {named(task)} on"] = (
                    "the time was over"
                )
                break
            kind = (task["model"], task["compiled"])
            if task["compiled"] and kind in self._failed:
                self.left_out[named(task)] = "another one of this model could not be compiled"
                continue
            found = self._answer(task, min(left, LONGEST_ROW))
            if "failed" in found:
                self._failed.add(kind)
                say(f"{named(task)}: {found['failed']}")
                self.left_out[named(task)] = found["failed"]
                continue
            yield self._row(task, found, bf16_rate)
        self.stop()

    def _answer(self, task: Task, limit: float) -> Row:
        if self._process is None:
            limit += STARTING
            self._connection, other = self._spawn.Pipe()
            self._process = self._spawn.Process(target=serve, args=(other, self.log), daemon=True)
            self._process.start()
            other.close()
        limit = min(limit, self.until - time.monotonic())
        own = {"overrides": overrides(task, self.shared["quick"])}
        try:
            self._connection.send(self.shared | task | own | {"features": self._features(task)})
            if self._connection.poll(max(limit, 0)):
                found: Row = self._connection.recv()
            else:
                found = {"failed": f"took longer than {limit:.0f} s"}
        except (EOFError, OSError):
            self._process.join(10)
            found = {"failed": f"its process ended with {self._process.exitcode}"}
        if "failed" in found:
            self.stop()
        return found

    def _features(self, task: Task) -> str:
        """The file of a data set, made when it is first needed."""
        path = Path(self.shared["folder"], f"{task['dataset']}.pkl")
        if not path.exists():
            synthetic.write(path, task["dataset"], sizes=SAMPLES, text_features=True)
        return str(path)

    def _row(self, task: Task, found: Row, bf16_rate: float) -> Row:
        key = (task["dataset"], task["batch_size"], task["model"])
        flops = self._flops.setdefault(key, found.get("flop_step", 0.0))
        rate = 1 / found["step_s"]
        row = {
            **task,
            "steps_s": f"{rate:.3f}",
            "samples_s": f"{rate * task['batch_size']:.1f}",
            "peak_mb": f"{found['peak_mb']:.0f}",
        }
        if flops:
            row["gflop_step"] = f"{flops / 1e9:.3f}"
            row["utilisation"] = f"{flops * rate / bf16_rate:.4f}"
        for name in ("operations_step", "kernels_step", "waits_step", "warned_waits_step"):
            if name in found:
                row[name] = f"{found[name]:.1f}"
        if "busy" in found:
            row["busy"] = f"{found['busy']:.3f}"
        return row | {"took_s": f"{found['took_s']:.1f}"}

    def stop(self) -> None:
        """End the process that measures."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


def named(task: Task) -> str:
    """A setting in a few words."""
    compiled = " compiled" if task["compiled"] else ""
    model, dataset, size = task["model"], task["dataset"], task["batch_size"]
    return f"{model} {dataset} {size} {task['precision']}{compiled}"


# --- The rest of the run ---


def rates(device: torch.device) -> dict[str, float]:
    """Operations a second of large matrix products, by precision."""
    found = {"fp32": floor.product_rate(device)}
    torch.set_float32_matmul_precision("high")
    found["tf32"] = floor.product_rate(device)
    torch.set_float32_matmul_precision("highest")
    return found | {"bf16": bf16_product_rate(device)}


def bf16_product_rate(device: torch.device) -> float:
    """Operations a second of a large matrix product in bf16."""
    return floor.product_rate(device, torch.bfloat16)


def tested(device: str, chosen: Sequence[str], limit: float, log: Path) -> str:
    """Run the tests of a device; how they went, in a line."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--color=no"]
    environment = os.environ | {"MMSA_EXT_TEST_DEVICE": device}
    begins = log.stat().st_size
    with log.open("ab") as out, contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [*command, "tests/device", *chosen],
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=out,
            timeout=limit,
        )
    said = log.read_bytes()[begins:].decode(errors="replace")
    counts = Counter(re.findall(r" (PASSED|FAILED|ERROR|SKIPPED)\b.*\[ *\d+%\]", said))
    line = ", ".join(f"{counts[name]} {name.lower()}" for name in ("PASSED", "FAILED", "ERROR"))
    ended = re.search(r"=+ .* in [0-9.]+s.* =+\s*$", said)
    return f"{line}, {counts['SKIPPED']} skipped" + ("" if ended else ", then cut short")


def write_encoder(folder: Path, quick: bool) -> str:
    """A text encoder with random weights, of BERT-base's size; with `quick` a tiny one."""
    synthetic.write_tiny_encoder(folder)
    if not quick:
        torch.manual_seed(0)
        BertModel(BertConfig()).save_pretrained(folder)
    return str(folder)


def machine(device: torch.device) -> str:
    """The device in a file's name."""
    environment = measuring.environment()
    name = environment["gpu" if device.type == "cuda" else "processor"]
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def no_gpu() -> str:
    """Why torch sees no GPU, and what to do."""
    built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is a CPU build"
    return (
        f"torch {torch.__version__} in {sys.prefix} {built} and sees no GPU. See with `nvidia-smi` "
        "that the driver works and which CUDA it knows, and install a build of torch for that "
        "(https://pytorch.org/get-started/locally) into this environment; or try the script "
        "without a GPU by --device cpu --quick."
    )


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=8, help="when to stop measuring")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one data set, few tests")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--rows", type=int, help="so many settings at most")
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--out", help="CSV file; default: benchmarks/measured/gpu-MACHINE.csv")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(no_gpu())
    return options


def main() -> None:
    """Test and measure, and write after every row what there is."""
    began, options = time.monotonic(), parse()
    device, seconds = torch.device(options.device), 60 * options.minutes
    default = ROOT / "benchmarks" / "measured" / f"gpu-{machine(device)}.csv"
    out = Path(options.out or default)
    log = out.with_suffix(".log")
    out.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    found = rates(device)
    notes = {f"rate_{name}_tflops": f"{rate / 1e12:.3f}" for name, rate in found.items()}
    rows: list[Row] = []
    if not options.no_tests:
        say("testing")
        chosen = ["-k", "text_only"] if options.quick else []
        notes["tests"] = tested(options.device, chosen, LEFT_FOR_TESTS * seconds, log)
        say(notes["tests"])
    with tempfile.TemporaryDirectory() as folder:
        shared = {
            "folder": folder,
            "device": options.device,
            "quick": options.quick,
            "pretrained": write_encoder(Path(folder, "encoder"), options.quick),
        }
        bench = Bench(shared, log.absolute(), began + seconds)
        try:
            for row in bench.rows(
                plan(options.quick, options.models)[: options.rows], found["bf16"]
            ):
                rows.append(row)
                say(f"{named(row)}: {row['steps_s']} steps a second")
                write(out, rows, notes | left_out(bench))
        finally:
            bench.stop()
            notes["rate_bf16_tflops_afterwards"] = f"{bf16_product_rate(device) / 1e12:.3f}"
            write(out, rows, notes | left_out(bench))
    print(table(rows))
    for line in (f"tests: {notes.get('tests', 'none')}", *left_out(bench).values()):
        print(line)
    print(f"{time.monotonic() - began:.0f} s. Please send back {out} and {log}.")


def left_out(bench: Bench) -> dict[str, str]:
    """What was not measured, as lines."""
    items = enumerate(bench.left_out.items(), start=1)
    return {f"left_out_{n}": f"{what}: {why}" for n, (what, why) in items}


def write(out: Path, rows: Sequence[Row], notes: dict[str, str]) -> None:
    """Write all that is known by now."""
    out.write_text(measuring.csv_text(rows, notes=notes), encoding="utf-8")


def table(rows: Sequence[Row]) -> str:
    """The rows, short."""
    frame = pd.DataFrame(rows)
    hidden = ["operations_step", "took_s", "samples_s", "gflop_step", "warned_waits_step"]
    frame.columns = frame.columns.str.removesuffix("_step")
    shown = frame.drop(columns=[name.removesuffix("_step") for name in hidden], errors="ignore")
    return shown.fillna("").to_string(index=False)


def say(line: str) -> None:
    """Tell whoever waits."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
