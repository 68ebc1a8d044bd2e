"""What the benchmarks share: the machine by name, medians, CSV, fresh processes."""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any


def environment(*packages: str) -> dict[str, str]:
    """Machine and versions of a measurement.

    Args:
        packages: Further distributions whose versions count.
    """
    import torch

    found = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        found |= _gpu()
    for package in ("MMSA_ext", "MMSA", "torch", "numpy", "transformers", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _gpu() -> dict[str, str]:
    """The GPU of CUDA, and what its driver says of itself, where that can be read."""
    import torch

    gpu = torch.cuda.get_device_properties()
    major, minor = torch.cuda.get_device_capability()
    found = {
        "gpu": gpu.name,
        "gpu_capability": f"{major}.{minor}",
        "gpu_memory_mb": f"{gpu.total_memory / 2**20:.0f}",
        "gpu_processors": str(gpu.multi_processor_count),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }
    asked = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.max.mem", "power.limit")
    command = ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(
            [*command, f"--id=GPU-{gpu.uuid}"], capture_output=True, text=True, timeout=20
        )
        return found | dict(zip(asked, said.stdout.strip().split(", "), strict=True))
    except (OSError, subprocess.SubprocessError, ValueError):
        return found


def csv_text(
    rows: Sequence[Mapping[str, Any]],
    packages: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
) -> str:
    """Environment, notes and command as comments, and the rows as CSV."""
    text = io.StringIO()
    for key, value in {**environment(*packages), **(notes or {})}.items():
        text.write(f"# {key}: {value}\n")
    text.write(f"# command: python {' '.join(_shown(argument) for argument in sys.argv)}\n")
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_csv(
    rows: Sequence[Mapping[str, Any]], out: str | None = None, packages: Sequence[str] = ()
) -> None:
    """Print `csv_text`; with `out` write it there too."""
    text = csv_text(rows, packages)
    print(text, end="")
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(text, encoding="utf-8")


def _shown(argument: str) -> str:
    """An argument without the folders of this machine."""
    path = Path(argument)
    return path.name if path.is_absolute() else argument


def median_seconds(function: Callable[[], Any], repeats: int, warm_up: int = 1) -> float:
    """Median wall time of a call, after calls that do not count."""
    return statistics.median(seconds(function, repeats, warm_up))


def seconds(function: Callable[[], Any], repeats: int, warm_up: int = 1) -> list[float]:
    """Wall times of calls, after calls that do not count."""
    for _ in range(warm_up):
        function()
    gc.collect()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return taken


def run_in_process(arguments: Sequence[str], script: str | None = None) -> dict[str, Any]:
    """Run a script with `--child` and these arguments in a new process.

    Args:
        arguments: What follows `--child`.
        script: The script; None is the running one.

    Returns:
        The JSON object on the last line of its output.

    Raises:
        SystemExit: If it fails, with the end of what it said.
    """
    command = [sys.executable, script or sys.argv[0], "--child", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{finished.stderr[-3000:]}")
    return dict(json.loads(finished.stdout.splitlines()[-1]))
