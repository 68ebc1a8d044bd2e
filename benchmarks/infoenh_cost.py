"""What InfoEnh costs its host: time and peak memory of a training step, with and without.

    python benchmarks/infoenh_cost.py --hosts self_mm misa mmim confede mult --repeats 3

Each measurement is one epoch in a process of its own, in the model's real trainer, on generated
data of official MOSI shape (text 50, audio 375, vision 500 steps); host and variant take turns.
Prints CSV: median seconds a step and peak memory of the process, and the variant's ratio to its
host. The first steps of an epoch are not counted.
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WARM_UP_STEPS = 3


class TimedLoader:
    """Notes the time at which each batch is asked for."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.times = loader, []

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            self.times.append(time.perf_counter())
            yield batch

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def measure(model: str, features: str, pretrained: str, folder: str) -> dict[str, float]:
    """One epoch of `model` in this process: mean seconds a step, peak MiB."""
    import torch

    from MMSA_ext import mmsa_bridge, text_encoders
    from MMSA_ext.config import resolve
    from MMSA_ext.data.features import read_features
    from MMSA_ext.data.loader import make_loaders
    from MMSA_ext.registry import get_model, trains_in_mmsa

    in_mmsa = trains_in_mmsa(model)
    overrides: dict[str, Any] = {"featurePath": features, "pretrained": pretrained}
    one_epoch = {"early_stop": 0} if in_mmsa else {"num_epochs": 1, "warmup_epochs": 0}
    if model.startswith("confede"):
        one_epoch["stage_one"] = None
    args = mmsa_bridge.complete_args(
        resolve(model, "mosi", "", overrides | one_epoch),
        device=torch.device("cpu"),
        model_save_path=Path(folder, "weights.pth"),
    )
    times: list[float] = []
    with mmsa_bridge.registered(), mmsa_bridge.progress_bars(False):
        mmsa_bridge.setup_seed(1111)
        if in_mmsa:
            args.pretrained = text_encoders.resolve(args.pretrained)
            loaders = mmsa_bridge.stock_loaders(args)
            network = mmsa_bridge.build_model(args)
            trainer = mmsa_bridge.build_trainer(args)
            wrapped = {**loaders, "train": TimedLoader(loaders["train"])}
            times = wrapped["train"].times
        else:
            wrapped = make_loaders(read_features(features, "mosi"), args.batch_size, 64)
            network = mmsa_bridge.build_model(args)
            trainer = get_model(model).trainer(args, lambda _: times.append(time.perf_counter()))
        trainer.do_train(network, wrapped)
    steps = [after - before for before, after in itertools.pairwise(times)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": statistics.fmean(steps[WARM_UP_STEPS:]), "peak_mb": peak}


def in_own_process(model: str, features: str, pretrained: str, folder: str) -> dict[str, float]:
    """`measure` in a new process."""
    command = [sys.executable, __file__, "--child", model, features, pretrained, folder]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"{model} failed:\n{finished.stderr[-2000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def main() -> None:
    """Measure every host and its variant in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", nargs="+", default=["self_mm", "misa", "mmim", "confede"])
    parser.add_argument("--pretrained", default="minilm")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, default=640, help="of the training split")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*options.child)))
        return
    from MMSA_ext.data import synthetic

    print("host,step_s,step_infoenh_s,time_ratio,peak_mb,peak_infoenh_mb,memory_ratio,repeats")
    with tempfile.TemporaryDirectory() as folder:
        features = str(Path(folder, "mosi.pkl"))
        synthetic.write(features, "mosi", sizes=(options.samples, 32, 32), text_features=True)
        for host in options.hosts:
            found: dict[str, list[dict[str, float]]] = {host: [], f"{host}_infoenh": []}
            for _ in range(options.repeats):
                for model, measured in found.items():
                    measured.append(in_own_process(model, features, options.pretrained, folder))
            seconds, peaks = (
                [statistics.median(run[key] for run in runs) for runs in found.values()]
                for key in ("seconds", "peak_mb")
            )
            print(
                f"{host},{seconds[0]:.4f},{seconds[1]:.4f},{seconds[1] / seconds[0]:.3f},"
                f"{peaks[0]:.0f},{peaks[1]:.0f},{peaks[1] / peaks[0]:.3f},{options.repeats}",
                flush=True,
            )


if __name__ == "__main__":
    main()
