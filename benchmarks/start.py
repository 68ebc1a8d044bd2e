"""How long this package takes to start, beside MMSA and torch.

    python benchmarks/start.py [--repeats 7] [--out start.csv]
    python benchmarks/start.py --parts [--out parts.csv]
    python benchmarks/start.py --first-step [--repeats 5] [--out first.csv]

Each measurement is a new process, the compared ones in turns; the first turn, which fills the file
cache, does not count. `import MMSA_ext` alone puts off what costs time, so `import MMSA_ext, MMSA`,
after which the models are registered, and `from MMSA_ext import MMSA_run`, after which they can be
trained, stand beside it. With `--parts`, the seconds of each package that is imported on the way to
`MMSA_run` (Python's own measurement, which slows imports down a little).

With `--first-step`, the processor time of a run on the way to its first training step, as ratios to
the imports of torch and transformers alone: what is imported, from there to the end of the checks
(the file's digest, reading it, the name of the run) and from there to the end of the first step
(the model, the untrained epoch's evaluation on 16 samples, the step). The model is `text_only` with
MiniLM on a small generated file, so that what is left is not the computing of a large one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from measuring import write_csv

REFERENCE = "import MMSA"
STARTS = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    REFERENCE: ["-c", "import MMSA"],
    "import MMSA_ext": ["-c", "import MMSA_ext"],
    "import MMSA_ext, MMSA": ["-c", "import MMSA_ext, MMSA"],
    "from MMSA_ext import MMSA_run": ["-c", "from MMSA_ext import MMSA_run"],
    "mmsa-ext --help": ["-m", "MMSA_ext", "--help"],
    "mmsa-ext run --help": ["-m", "MMSA_ext", "run", "--help"],
    "mmsa-ext run --unknown": ["-m", "MMSA_ext", "run", "--unknown"],
    "mmsa-ext list": ["-m", "MMSA_ext", "list"],
}
USAGE_ERROR = 2
# Prints the processor time so far at each stage; ends with the first step.
FIRST_STEP = """
import json, os, sys, time
stages = {}
def passed(stage):
    stages[stage] = time.process_time()
import torch, transformers
from transformers import BertModel, BertTokenizer
passed("import torch, transformers")
import MMSA
passed("import MMSA")
from MMSA_ext import Callback, MMSA_run
passed("from MMSA_ext import MMSA_run")
class Watch(Callback):
    def on_start(self, start):
        passed("checks, data, name of the run")
    def on_step(self, step):
        passed("first step")
        print(json.dumps(stages), flush=True)
        os._exit(0)
folder = sys.argv[1]
MMSA_run(
    "text_only", "mosi", config={"pretrained": "minilm"}, seeds=[1], gpu_ids="cpu",
    num_workers=0, verbose_level=0, custom_feature=f"{folder}/mosi.pkl", callbacks=[Watch()],
    res_save_dir=folder, model_save_dir=folder, log_dir=folder, reuse=False,
)
"""


def main() -> None:
    """Measure, and print CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--parts", action="store_true", help="by imported package")
    parser.add_argument("--first-step", action="store_true", help="of a run, processor time")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    if arguments.first_step:
        write_csv(first_step(arguments.repeats), arguments.out)
        return
    if arguments.parts:
        write_csv(parts(), arguments.out)
        return
    for command in STARTS.values():
        start(command)
    seconds: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(arguments.repeats):
        for name, command in STARTS.items():
            seconds[name].append(start(command))
    reference = statistics.median(seconds[REFERENCE])
    rows = [
        {
            "start": name,
            "median_seconds": round(statistics.median(taken), 3),
            "fastest": round(min(taken), 3),
            "ratio_to_import_mmsa": round(statistics.median(taken) / reference, 3),
            "repeats": len(taken),
        }
        for name, taken in seconds.items()
    ]
    write_csv(rows, arguments.out)


def start(command: list[str]) -> float:
    """Wall time of a new Python process."""
    began = time.perf_counter()
    ended = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    taken = time.perf_counter() - began
    if ended.returncode not in (0, USAGE_ERROR):
        sys.exit(f"{' '.join(command)} failed:\n{ended.stderr[-3000:]}")
    return taken


def parts() -> list[dict[str, object]]:
    """Seconds by imported package, of `import MMSA` and of `from MMSA_ext import MMSA_run`."""
    stock = package_seconds(REFERENCE)
    ours = package_seconds("from MMSA_ext import MMSA_run")
    packages = sorted({*stock, *ours}, key=lambda package: ours[package], reverse=True)
    return [
        {
            "package": package,
            "import_mmsa": round(stock[package], 3),
            "import_mmsa_run": round(ours[package], 3),
            "added": round(ours[package] - stock[package], 3),
        }
        for package in packages
        if max(stock[package], ours[package]) > 0.005
    ]


def first_step(repeats: int) -> list[dict[str, object]]:
    """Processor seconds of a run up to each stage, medians of new processes."""
    from MMSA_ext.data import synthetic

    runs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        synthetic.write(str(Path(folder, "mosi.pkl")), "mosi", sizes=(64, 16, 16))
        command = [sys.executable, "-c", FIRST_STEP, folder]
        for _ in range(repeats + 1):  # the first one fills caches
            ended = subprocess.run(command, capture_output=True, text=True)
            if ended.returncode:
                sys.exit(f"the run failed:\n{ended.stderr[-3000:]}")
            runs.append(json.loads(ended.stdout.splitlines()[-1]))
    reference = next(iter(runs[0]))
    return [
        {
            "up_to": stage,
            "processor_seconds": round(statistics.median(run[stage] for run in runs[1:]), 3),
            "ratio_to_imports": round(
                statistics.median(run[stage] / run[reference] for run in runs[1:]), 3
            ),
            "repeats": repeats,
        }
        for stage in runs[0]
    ]


def package_seconds(statement: str) -> Counter[str]:
    """Seconds spent in the modules of each package themselves, not in what they import."""
    command = [sys.executable, "-X", "importtime", "-c", statement]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds: Counter[str] = Counter()
    for line in ended.stderr.splitlines():
        own, _, rest = line.removeprefix("import time:").partition("|")
        if line.startswith("import time:") and own.strip().isdecimal():
            module = rest.partition("|")[2].strip()
            seconds[module.partition(".")[0]] += int(own) / 1e6
    return seconds


if __name__ == "__main__":
    main()
