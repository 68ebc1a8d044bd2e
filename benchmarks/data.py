"""Reading a feature file: seconds, time to the first batch, an epoch of batches, peak memory.

    python benchmarks/data.py                       # CH-SIMS and MOSI at official size, 5 turns
    python benchmarks/data.py --datasets sims --repeats 3 --out data.csv

Files are generated at official sizes (float32, with `text`, which the official files have, too).
Every reading is a process of its own, in turns over the ways to read (Linux):

    MMSA         MMSA.MMDataLoader for a model with BERT, nothing of this package imported
    pickle       read_features and make_loaders, without a cache
    first use    the same, and making the memory-mapped cache
    hashed       the same, from the cache, which is hashed because that was not done today
    mapped       the same, from the cache

The file is in the system's page cache for all of them. `read_s` is from the path to ready loaders
of all splits, `first_batch_s` and `epoch_s` are of the training loader. Peak memory is that of the
process less what it held after its imports: `read_mib` when it has read, `epoch_mib` when it has
gone through all splits, which counts the touched pages of mapped files, though the system can take
them back; `own_mib` is what it then holds for itself. Medians; `times_faster` and `*_share` are
against MMSA in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import run_in_process, write_csv

WAYS = ("MMSA", "pickle", "first use", "hashed", "mapped")
BATCH_SIZE = 32


def main() -> None:
    """Let the ways take turns on each data set."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=["sims", "mosi"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="for some 2.5 GB of files; default: a temporary one")
    parser.add_argument("--out", help="CSV file")
    options = parser.parse_args()
    rows = []
    if options.folder:
        Path(options.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for dataset in options.datasets:
            rows += measure(dataset, options.repeats, Path(folder))
    write_csv(rows, options.out)


def measure(dataset: str, repeats: int, folder: Path) -> list[dict[str, Any]]:
    """Medians of every way to read a data set."""
    file, caches = str(folder / f"{dataset}.pkl"), folder / "caches"
    run_in_process(["write", dataset, file, "off"])
    filled = caches / "filled"
    for _ in range(2):  # makes the cache and hashes it; then all is as it stays
        time.sleep(3)  # what has just changed is not recognised by its time
        run_in_process(["mapped", dataset, file, str(filled)])
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            with tempfile.TemporaryDirectory(dir=folder) as empty:
                cache = {"first use": empty, "hashed": str(filled), "mapped": str(filled)}
                if way == "hashed":
                    for note in filled.glob("**/*.checked"):
                        note.unlink()
                taken[way].append(run_in_process([way, dataset, file, cache.get(way, "off")]))
    size = Path(file).stat().st_size / 2**20
    medians = {
        way: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for way, runs in taken.items()
    }
    return [
        {"dataset": dataset, "file_mib": round(size), "way": way}
        | {name: round(value, 4 if name.endswith("_s") else 1) for name, value in found.items()}
        | {
            "times_faster": round(medians["MMSA"]["read_s"] / found["read_s"], 2),
            "read_share": round(found["read_mib"] / medians["MMSA"]["read_mib"], 3),
            "epoch_share": round(found["epoch_mib"] / medians["MMSA"]["epoch_mib"], 3),
        }
        for way, found in medians.items()
    ]


def child(way: str, dataset: str, file: str, cache: str) -> dict[str, float]:
    """Write the file, or read it in one way and say what it took."""
    os.environ["MMSA_EXT_CACHE"] = cache
    if way == "write":
        from MMSA_ext.data import synthetic

        synthetic.write(file, dataset, sizes="official")
        return {}
    read = _mmsa(dataset, file) if way == "MMSA" else _ours(dataset, file)
    held, own, began = _memory_mib("VmHWM"), _memory_mib("RssAnon"), time.perf_counter()
    loaders = read()
    ready, read_mib = time.perf_counter(), _memory_mib("VmHWM") - held
    next(iter(loaders["train"]))
    first = time.perf_counter()
    for _ in loaders["train"]:
        pass
    epoch = time.perf_counter()
    for split in ("valid", "test"):
        for _ in loaders[split]:
            pass
    return {
        "read_s": ready - began,
        "first_batch_s": first - ready,
        "epoch_s": epoch - first,
        "read_mib": read_mib,
        "epoch_mib": _memory_mib("VmHWM") - held,
        "own_mib": _memory_mib("RssAnon") - own,
    }


def _mmsa(dataset: str, file: str) -> Callable[[], dict[str, Any]]:
    from easydict import EasyDict
    from MMSA.data_loader import MMDataLoader

    args = EasyDict(
        dataset_name=dataset,
        featurePath=file,
        custom_feature=None,
        **dict.fromkeys(("feature_T", "feature_A", "feature_V"), ""),
        use_bert=True,
        need_data_aligned=False,
        need_normalized=False,
        feature_dims=[0, 0, 0],
        seq_lens=[0, 0, 0],
        batch_size=BATCH_SIZE,
    )
    if "MMSA_ext" in sys.modules:
        sys.exit("MMSA_ext was imported; this is no measurement of MMSA alone")
    return lambda: dict(MMDataLoader(args, 0))


def _ours(dataset: str, file: str) -> Callable[[], dict[str, Any]]:
    from MMSA_ext.data.features import read_features
    from MMSA_ext.data.loader import make_loaders

    return lambda: dict(make_loaders(read_features(file, dataset), BATCH_SIZE, BATCH_SIZE))


def _memory_mib(kind: str) -> float:
    """Memory of this process by Linux's name: VmHWM is its peak, RssAnon what is its own now.

    Unlike `resource.getrusage`, the peak does not start from that of the parent process.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) / 1024
    raise KeyError(kind)


if __name__ == "__main__":
    main()
