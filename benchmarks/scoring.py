"""Scoring shards: rate, peak memory, and bytes beside padded features, whatever the number.

    python benchmarks/scoring.py FOLDER --make 10000     # shards and, once, a checkpoint
    python benchmarks/scoring.py FOLDER [--out score.csv]
    python benchmarks/scoring.py FOLDER --compare 2000 [--repeats 3]

Utterances are generated, of the size of CH-SIMS (39 tokens, 400 x 33 audio, 55 x 709 vision). The
model is DashFusion with MiniLM after one epoch; `--model` names another. Scoring is one process,
that of `mmsa-ext predict CHECKPOINT FOLDER/shards -o FOLDER/results`; ended and started again, it
goes on. `--compare` scores some utterances with those of like length together, and in file order,
in turns.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from measuring import write_csv

from MMSA_ext import MMSA_run, Scorer
from MMSA_ext.data import synthetic
from MMSA_ext.data.samples import Sample
from MMSA_ext.data.shards import read_utterances, shard_files, write_shards
from MMSA_ext.data.utterances import Utterances
from MMSA_ext.models.contract import core_model
from MMSA_ext.runs.scoring import PartScores, score_shards
from MMSA_ext.text_encoders import load_tokenizer

BLOCK = 500  # utterances that are generated together
PART = 2500  # utterances of a part
PADDED = 4 * (3 * 39 + 400 * 33 + 55 * 709)  # bytes of one, as a feature file holds it


def main() -> None:
    """Make the data, or measure and print CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--make", type=int, metavar="N")
    parser.add_argument("--compare", type=int, metavar="N")
    parser.add_argument("--model", default="dashfusion")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out")
    given = parser.parse_args()
    checkpoint = trained(given.folder, given.model)
    if given.make:
        write_shards(generated(given.make), given.folder / "shards", -(-given.make // PART))
    elif given.compare:
        write_csv(compared(checkpoint, given.folder, given.compare, given.repeats), given.out)
    else:
        write_csv([scored(checkpoint, given.folder)], given.out)


def trained(folder: Path, model: str) -> Path:
    """The checkpoint, trained where there is none."""
    if found := list(folder.glob(f"{model}-*.pth")):
        return found[0]
    folder.mkdir(parents=True, exist_ok=True)
    features = synthetic.write(
        folder / "train.pkl", "sims", sizes=(64, 16, 16), tokenizer=load_tokenizer("minilm")
    )
    results = MMSA_run(
        model,
        "sims",
        config={"pretrained": "minilm", "num_epochs": 1},
        seeds=[1],
        custom_feature=features,
        gpu_ids="cpu",
        **dict.fromkeys(("model_save_dir", "res_save_dir", "log_dir"), folder),
    )
    return Path(results.seeds[0].checkpoint)


def generated(count: int) -> Iterator[Sample]:
    """Utterances without padding."""
    tokenizer = load_tokenizer("minilm")
    for start in range(0, count, BLOCK):
        here = min(BLOCK, count - start)
        made = synthetic.make(
            "sims", sizes=(1, 1, here), seed=start, tokenizer=tokenizer, text_features=False
        )["test"]
        for i in range(here):
            tokens = made["text_bert"][i]
            frames = {m: made[m][i, : made[f"{m}_lengths"][i]] for m in ("audio", "vision")}
            yield Sample(
                f"{start + i:08d}",
                raw_text=str(made["raw_text"][i]),
                text_bert=tokens[:, tokens[1] == 1],
                labels={"M": float(made["regression_labels"][i])},
                **frames,
            )


def scored(checkpoint: Path, folder: Path) -> dict[str, object]:
    """Score what is not scored yet."""
    import pyarrow.parquet as pq

    began = time.perf_counter()
    scorer = Scorer(checkpoint, gpu_ids="cpu")

    def report(part: PartScores) -> None:
        print(
            f"# {part.result.name}: {part.samples} samples, {part.failed} failed"
            f"{', finished before' if part.found else ''}, {time.perf_counter() - began:.0f} s",
            flush=True,
        )

    parts = score_shards(scorer, folder / "shards", folder / "results", report)
    seconds = time.perf_counter() - began
    now = sum(part.samples for part in parts if not part.found)
    total = sum(part.samples for part in parts)
    files = shard_files(folder / "shards")
    plain = 0
    for file in files:
        metadata = pq.read_metadata(file)
        groups = range(metadata.num_row_groups)
        plain += sum(metadata.row_group(group).total_byte_size for group in groups)
    return {
        "utterances": total,
        "scored_now": now,
        "seconds": round(seconds, 1),
        "per_second": round(now / seconds, 1),
        "processor_seconds": round(time.process_time(), 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "ragged_over_padded": round(plain / (total * PADDED), 3),
        "compressed_over_padded": round(
            sum(file.stat().st_size for file in files) / (total * PADDED), 3
        ),
    }


def compared(checkpoint: Path, folder: Path, count: int, repeats: int) -> list[dict[str, object]]:
    """Utterances of like length together, and in file order, in turns."""
    windows = chain.from_iterable(map(read_utterances, shard_files(folder / "shards")))
    read: list[Utterances] = []
    while sum(map(len, read)) < count:
        read.append(next(windows))
    utterances = Utterances.joined(read).take(range(count))
    scorer = Scorer(checkpoint, gpu_ids="cpu")
    model = core_model(scorer.model)
    seconds: dict[str, list[float]] = {"like length": [], "file order": []}
    predictions = {}
    for turn in range(repeats + 1):  # the first fills caches
        for order, taken in seconds.items():
            model.reads_padding = order == "file order"
            began = time.process_time()
            predictions[order] = scorer.score(utterances, "shards").prediction
            if turn:
                taken.append(time.process_time() - began)
    np.testing.assert_allclose(*predictions.values(), atol=1e-4)
    medians = {order: statistics.median(taken) for order, taken in seconds.items()}
    return [
        {
            "order": order,
            "utterances": count,
            "processor_seconds": round(median, 2),
            "times_faster": round(medians["file order"] / median, 2),
        }
        for order, median in medians.items()
    ]


if __name__ == "__main__":
    main()
