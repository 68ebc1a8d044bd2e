"""What it costs to interpret a feature file instead of unpickling it.

    python benchmarks/interpreting.py               # some 700 MB of memory
    python benchmarks/interpreting.py --repeats 3 --out interpreting.csv

`safe_load` interprets a pickle in Python; `pickle.load` runs it, as one may with one's own files.
Both read the same bytes from memory, in turns; processor time, of which both use one core. Arrays
cost about the same: their bytes are read at once. Every other value costs the interpreter some
operations, so the rest is what a file may have besides: the texts and numbers of MOSEI's 22,856
samples, features as lists, an array or a tuple for each sample.
"""

from __future__ import annotations

import argparse
import gc
import io
import pickle
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from measuring import write_csv

from MMSA_ext.data.safe_pickle import safe_load

SAMPLES = 22_856


def contents() -> dict[str, Callable[[], Any]]:
    """Contents by name, each made when it is measured."""
    dice = np.random.default_rng(0)
    lengths = dice.integers(1, 500, SAMPLES)
    return {
        "arrays": lambda: [dice.normal(size=(2000, 100, 100)).astype(np.float32)],
        "texts and numbers of 22,856 samples": lambda: {
            "id": [f"video{i // 8}$_${i % 8}" for i in range(SAMPLES)],
            "raw_text": [f"the words of sample {i}, some twenty of them" for i in range(SAMPLES)],
            "annotations": ["Positive" if i % 3 else "Negative" for i in range(SAMPLES)],
            "audio_lengths": lengths.tolist(),
            "regression_labels": dice.normal(size=SAMPLES).tolist(),
        },
        "an array for each sample": lambda: [dice.normal(size=(n, 20)) for n in lengths[:5000]],
        "features as nested lists": lambda: dice.normal(size=(200, 50, 74)).tolist(),
        "a million numbers": lambda: dice.normal(size=10**6).tolist(),
        "a hundred thousand tuples": lambda: [(i, float(i)) for i in range(10**5)],
    }


def main() -> None:
    """Let both take turns on every content."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--protocols", nargs="+", type=int, default=[2, 4, 5])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", help="CSV file")
    options = parser.parse_args()
    rows = [
        {"content": name, "protocol": protocol} | measure(make(), protocol, options.repeats)
        for name, make in contents().items()
        for protocol in options.protocols
    ]
    write_csv(rows, options.out)


def measure(value: Any, protocol: int, repeats: int) -> dict[str, Any]:
    """Medians of both on one content."""
    stored = pickle.dumps(value, protocol)
    ways: dict[str, Callable[[Any], Any]] = {"pickle": pickle.load, "ours": safe_load}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, load in ways.items():
            gc.collect()
            began = time.process_time()
            load(io.BytesIO(stored))
            taken[way].append(time.process_time() - began)
    medians = {way: statistics.median(values) for way, values in taken.items()}
    return {
        "mib": round(len(stored) / 2**20, 1),
        **{f"{way}_s": round(value, 4) for way, value in medians.items()},
        "times_pickle": round(medians["ours"] / medians["pickle"], 2),
        "more_s": round(medians["ours"] - medians["pickle"], 3),
    }


if __name__ == "__main__":
    main()
