r"""Cost of one refresh of the retrieval index: seconds, memory and growth by number of samples.

    python benchmarks/retrieval.py [--full] [--out retrieval.csv]
    python benchmarks/retrieval.py --samples 50000 --labels classes --features clustered \
        --approximate "IVF256,Flat;nprobe=32" "HNSW16,Flat;efSearch=48"

Each measurement runs in a process of its own on random features. `labels` is `classes` (11 of equal
chance) or `continuous` (every sample a class of its own). `extra_peak_mb` is the peak of the
process less what it held before the refresh (the features among it). `growth` is the slope of log
time against log N from the line before: 2 where time is quadratic. `matmul_seconds` is the matrix
product of all similarities alone, in the same process and blocks: the floor of an exact search.

`--approximate` compares with a faiss index (its factory's name; search parameters) for each class,
searched for every sample and for its negative: `recall_*` are the shares of the exact candidates
that it finds, `seconds` is building it plus searching it, the latter scaled from 2,000 samples.
Features are `normal` (no structure, the hardest case) or `clustered` (16 latent dimensions around
class centres).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from measuring import median_seconds, run_in_process, write_csv
from torch import Tensor

from MMSA_ext.data.retrieval import RetrievalConfig, RetrievalIndex, build_index
from MMSA_ext.processes import peak_rss_mb

USUAL = [1_000, 2_000, 4_000, 8_000, 16_326]
FULL = [*USUAL, 32_000, 64_000, 100_000, 200_000]
BLOCK_ROWS = 256
CLASSES = 11
QUERIES = 2_000
LISTS = ("same", "similar", "dissimilar")


def samples(options: argparse.Namespace, count: int) -> tuple[Tensor, Tensor]:
    """Features `(N, d)` and labels `(N,)`."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    features = torch.randn(count, options.dim, generator=generator)
    if options.features == "clustered":
        centres = 1.5 * torch.randn(CLASSES, 16, generator=generator)
        latent = centres[labels] + torch.randn(count, 16, generator=generator)
        outwards = torch.randn(16, options.dim, generator=generator) / 4
        features = torch.tanh(latent @ outwards) + 0.1 * features
    if options.labels[0] == "continuous":
        labels = torch.randperm(count, generator=generator)
    return features, labels.float()


def matrix_products(features: Tensor) -> None:
    """All similarities, block by block."""
    memory = features.new_empty(min(BLOCK_ROWS, len(features)), len(features))
    for block in F.normalize(features, dim=1).split(BLOCK_ROWS):
        torch.mm(block, features.T, out=memory[: len(block)])


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The refresh of one number of samples in this process, and approximate ones."""
    features, labels = samples(options, options.samples[0])
    config = RetrievalConfig()
    build_index(features[:500], labels[:500], config)  # starts the threads
    before, began = peak_rss_mb(), time.perf_counter()
    index = build_index(features, labels, config, BLOCK_ROWS)
    taken, extra = time.perf_counter() - began, peak_rss_mb() - before
    # Where one refresh takes minutes, the first is the measurement.
    if taken < 60:
        taken = median_seconds(
            lambda: build_index(features, labels, config, BLOCK_ROWS), options.repeats, warm_up=0
        )
    again = options.repeats if taken < 60 else 1
    floor = median_seconds(lambda: matrix_products(features), again, warm_up=0)
    exact = {
        "samples": len(features),
        "dim": options.dim,
        "features": options.features,
        "labels": options.labels[0],
        "search": "exact",
        "seconds": round(taken, 4),
        "matmul_seconds": round(floor, 4),
        "extra_peak_mb": round(extra),
    }
    rows = [exact]
    for name in options.approximate:
        seconds, recalls = approximate(features, labels, index, name)
        unmeasured = {"matmul_seconds": "", "extra_peak_mb": ""}
        rows.append(exact | {"search": name, "seconds": round(seconds, 4)} | unmeasured | recalls)
    return rows


def approximate(
    features: Tensor, labels: Tensor, exact: RetrievalIndex, name: str
) -> tuple[float, dict[str, float]]:
    """Seconds, scaled to all samples, and recalls of a faiss index for each class."""
    import faiss

    factory, _, parameters = name.partition(";")
    faiss.omp_set_num_threads(torch.get_num_threads())
    vectors, k = F.normalize(features, dim=1).numpy(), exact.same.shape[1]
    queries = vectors[:QUERIES]
    classes = labels.unique(return_inverse=True)[1]
    building = searching = 0.0
    scores, names = [], []  # (2, queries, k + 1) for each class, of the samples and their negatives
    for number in classes.unique():
        group = (classes == number).nonzero().squeeze(1)
        began = time.perf_counter()
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[group])
        index.add(vectors[group])
        if parameters:
            faiss.ParameterSpace().set_index_parameters(index, parameters)
        built = time.perf_counter()
        found = [index.search(queries, k + 1), index.search(-queries, k + 1)]
        searching += time.perf_counter() - built
        building += built - began
        positions = torch.stack([torch.from_numpy(indices) for _, indices in found])
        names.append(torch.where(positions < 0, -1, group[positions.clamp(min=0)]))
        scores.append(torch.stack([torch.from_numpy(similarity) for similarity, _ in found]))
    (near, far), (near_names, far_names) = (torch.cat(parts, dim=2) for parts in (scores, names))
    query = torch.arange(len(queries))[:, None]
    own, far_own = (classes[x.clamp(min=0)] == classes[query] for x in (near_names, far_names))
    recalls = {}
    for kind, similarity, of, taken in (
        ("same", near, near_names, own & (near_names != query)),
        ("similar", near, near_names, ~own),
        ("dissimilar", far, far_names, ~far_own),
    ):
        best = similarity.masked_fill(~taken | (of < 0), -torch.inf).topk(k, dim=1).indices
        wanted = getattr(exact, kind)[: len(queries)]
        hits = (of.gather(1, best)[:, :, None] == wanted[:, None]).any(dim=1)
        recalls[f"recall_{kind}"] = round(hits[wanted >= 0].float().mean().item(), 4)
    return building + searching * len(vectors) / len(queries), recalls


def with_growth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of growing N, the exact ones with the exponent from the one before."""
    before: dict[str, Any] | None = None
    for row in rows:
        row["growth"] = ""
        if row["search"] != "exact":
            continue
        if before:
            longer, larger = (row[key] / before[key] for key in ("seconds", "samples"))
            row["growth"] = round(math.log(longer) / math.log(larger), 2)
        before = row
    return rows


def main() -> None:
    """Measure each number of samples, smallest first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", help=f"{USUAL}, with --full {FULL}")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--labels", nargs="+", default=["classes", "continuous"])
    parser.add_argument("--features", choices=["normal", "clustered"], default="normal")
    parser.add_argument("--approximate", nargs="+", default=[], help="faiss factory;parameters")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="up to 200,000 samples: an hour")
    parser.add_argument("--out", help="CSV file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps({"rows": measure(options)}))
        return
    shared = ["--dim", str(options.dim), "--features", options.features]
    shared += ["--repeats", str(options.repeats)]
    if options.approximate:
        shared += ["--approximate", *options.approximate]
    rows = []
    for labels in options.labels:
        measured = [
            run_in_process(["--samples", str(count), "--labels", labels, *shared])["rows"]
            for count in sorted(set(options.samples or (FULL if options.full else USUAL)))
        ]
        rows += with_growth([row for found in measured for row in found])
    write_csv(rows, options.out, ["faiss-cpu"] if options.approximate else [])


if __name__ == "__main__":
    main()
