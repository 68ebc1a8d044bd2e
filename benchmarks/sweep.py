"""Throughput of many runs: one process or several, with one thread each or with all.

    python benchmarks/sweep.py [--seeds 8] [--rounds 1] [--model dashfusion] [--out sweep.csv]

Real runs through `mmsa-ext experiment run`: generated data, training, test, record, checkpoint. The
ways to use the cores:

- `one process`: one run after another in one process, with all threads, with all that sleep instead
  of spin while they wait (`OMP_WAIT_POLICY=PASSIVE`), and with one;
- `processes`: as many processes as cores (`--jobs`), with their share of the threads, which is what
  the command does by itself, and with all threads each;
- `one process a run`: the command once for each seed (two seeds, all threads), which is what a loop
  in a shell does: it shows what a process gains that is reused for many runs.

`runs_per_hour` counts everything from the start of the command to its end, `ratio` compares it with
one process with all threads. `share_outside_runs` is the share of the processes' time that is not
training and testing: imports, reading data, looking up records, waiting for the last run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measuring import write_csv

from MMSA_ext.data.synthetic import write, write_tiny_encoder
from MMSA_ext.records.store import RunStore

THREADS, WAITING = "OMP_NUM_THREADS", "OMP_WAIT_POLICY"
SIZES, LENGTHS, ENCODER_WIDTH = (64, 16, 16), (16, 40, 24), 128
# Small enough for seconds a run, wide enough that threads have something to share.
SETTINGS: dict[str, dict[str, Any]] = {
    "dashfusion": {"num_epochs": 3},
    "text_only": {"num_epochs": 3},
    "self_mm": {"early_stop": 3},
    "lf_dnn": {"early_stop": 3},
}


@dataclass(frozen=True)
class Way:
    """A way to use the cores: processes at once, and threads of each; None is left to the command.

    With `apart`, each run is a command of its own; `waiting` is what waiting threads do.
    """

    name: str
    jobs: int
    threads: int | None
    apart: bool = False
    waiting: str = ""


def ways(cores: int) -> list[Way]:
    """What is compared; the first is the reference."""
    return [
        Way("one process", 1, cores),
        Way("one process", 1, cores, waiting="PASSIVE"),
        Way("one process", 1, 1),
        Way("processes", cores, None),
        Way("processes", cores, cores),
        Way("one process a run", 1, cores, apart=True),
    ]


def main() -> None:
    """Measure all ways in turns, and print CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model", choices=SETTINGS, default="dashfusion")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    compared = ways(torch.get_num_threads())
    found: dict[Way, list[dict[str, float]]] = {way: [] for way in compared}
    with tempfile.TemporaryDirectory() as folder:
        experiment, features = prepare(Path(folder), arguments.model)
        for number in range(arguments.rounds):
            for way in compared:
                results = Path(folder, f"{number}-{compared.index(way)}")
                found[way].append(
                    measure(way, range(arguments.seeds), experiment, features, results)
                )
    reference = median(found[compared[0]], "runs_per_hour")
    rows = [
        {
            "way": way.name,
            "model": arguments.model,
            "processes": way.jobs,
            "threads_each": int(median(measured, "threads")),
            "waiting": way.waiting,
            "runs": int(median(measured, "runs")),
            "seconds": round(median(measured, "seconds"), 1),
            "runs_per_hour": round(median(measured, "runs_per_hour")),
            "ratio": round(median(measured, "runs_per_hour") / reference, 2),
            "seconds_in_a_run": round(median(measured, "run_seconds"), 2),
            "share_outside_runs": round(median(measured, "outside"), 2),
            "rounds": arguments.rounds,
        }
        for way, measured in found.items()
    ]
    write_csv(rows, arguments.out)


def median(measured: Sequence[dict[str, float]], key: str) -> float:
    """Median over the rounds."""
    return statistics.median(one[key] for one in measured)


def prepare(folder: Path, model: str) -> tuple[Path, Path]:
    """Write a data set, a text encoder and an experiment of one row.

    Returns:
        The experiment and the feature file.
    """
    encoder = write_tiny_encoder(folder / "encoder", hidden=ENCODER_WIDTH)
    features = write(folder / "sims.pkl", "sims", sizes=SIZES, lengths=LENGTHS)
    content = {
        "title": "Throughput",
        "source": {"paper": "none", "table": "none"},
        "datasets": ["sims"],
        "columns": {"sims": ["MAE"]},
        "rows": [
            {
                "label": model,
                "model": model,
                "config": {"pretrained": str(encoder), **SETTINGS[model]},
            }
        ],
    }
    path = folder / "throughput.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path, features


def measure(
    way: Way, seeds: Sequence[int], experiment: Path, features: Path, results: Path
) -> dict[str, float]:
    """Run the seeds in one way, into an empty store."""
    commands = [[seed] for seed in seeds[:2]] if way.apart else [list(seeds)]
    began = time.perf_counter()
    for chosen in commands:
        run(way, chosen, experiment, features, results)
    seconds = time.perf_counter() - began
    records = list(RunStore(results / "runs").records())
    inside = sum(record.seconds or 0.0 for record in records)
    return {
        "seconds": seconds,
        "runs": len(records),
        "runs_per_hour": 3600 * len(records) / seconds,
        "run_seconds": statistics.median(record.seconds or 0.0 for record in records),
        "threads": statistics.median(record.environment.threads or 0 for record in records),
        "outside": 1 - inside / (seconds * min(way.jobs, len(records))),
    }


def run(way: Way, seeds: Sequence[int], experiment: Path, features: Path, results: Path) -> None:
    """The command, as a user types it."""
    environment = {k: v for k, v in os.environ.items() if k not in (THREADS, WAITING)}
    if way.waiting:
        environment[WAITING] = way.waiting
    if way.threads is not None:
        environment[THREADS] = str(way.threads)
    command = [sys.executable, "-m", "MMSA_ext", "experiment", "run", str(experiment)]
    command += [f"--seeds={seed}" for seed in seeds]
    command += ["--features", str(features), "--jobs", str(way.jobs), "--gpu-ids", "cpu"]
    command += ["--num-workers", "0", "--verbose", "0", "--res-save-dir", str(results)]
    command += ["--model-save-dir", str(results), "--log-dir", str(results)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{ended.stdout[-1500:]}\n{ended.stderr[-3000:]}")


if __name__ == "__main__":
    main()
