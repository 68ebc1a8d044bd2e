"""Tiny sources of every form, after public descriptions of what others' tools write."""

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

SPLITS = ("train", "valid", "test")
COUNTS = {"train": 12, "valid": 4, "test": 4}
AUDIO, VISION = 5, 4
WORDS = ("good", "film", "bad", "plot", "nice", "voice", "poor", "sound")


def utterances(counts: dict[str, int] = COUNTS) -> list[dict[str, Any]]:
    """Rows of a table, and their frames under `audio` and `vision`."""
    generator = np.random.default_rng(0)
    rows = []
    for split, count in counts.items():
        for i in range(count):
            words = generator.choice(WORDS, generator.integers(2, 6))
            rows.append(
                {
                    "id": f"{split}{i}",
                    "text": " ".join(words),
                    "label": round(float(generator.uniform(-1, 3)), 1),
                    "split": split,
                    "speaker": f"s{len(rows) % 7}",
                    "audio": generator.normal(size=(generator.integers(2, 9), AUDIO)),
                    "vision": generator.normal(size=(generator.integers(2, 7), VISION)),
                }
            )
    return rows


COLUMNS = ("id", "text", "label", "split", "speaker")


def write_csv(
    path: Path,
    rows: list[dict[str, Any]],
    columns: tuple[str, ...] = COLUMNS,
    *,
    separator: str = ",",
    encoding: str = "utf-8",
) -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, columns, delimiter=separator, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def table(folder: Path) -> list[dict[str, Any]]:
    """`utterances.csv`, and a `.npy` for each id in `audio` and `vision`."""
    rows = utterances()
    write_csv(folder / "utterances.csv", rows)
    for key in ("audio", "vision"):
        (folder / key).mkdir()
        for row in rows:
            np.save(folder / key / f"{row['id']}.npy", row[key].astype(np.float32))
    return rows


def padded(rows: list[dict[str, Any]], key: str, *, front: bool = False) -> np.ndarray:
    longest = max(len(row[key]) for row in rows)
    array = np.zeros((len(rows), longest, rows[0][key].shape[1]), np.float32)
    for target, row in zip(array, rows, strict=True):
        where = slice(longest - len(row[key]), None) if front else slice(len(row[key]))
        target[where] = row[key]
    return array


def arrays(folder: Path) -> list[dict[str, Any]]:
    """A folder of `.npy` files."""
    rows = utterances()
    (folder / "arrays").mkdir()
    values = {key: padded(rows, key) for key in ("audio", "vision")}
    values |= {f"{key}_lengths": np.array([len(r[key]) for r in rows]) for key in values}
    values |= {
        "ids": np.array([row["id"] for row in rows]),
        "raw_text": np.array([row["text"] for row in rows]),
        "labels": np.array([[row["label"]] for row in rows]),
        "split": np.array([row["split"] for row in rows]),
    }
    for name, value in values.items():
        np.save(folder / "arrays" / f"{name}.npy", value)
    return rows


def hugging_face(folder: Path) -> list[dict[str, Any]]:
    """A `DatasetDict` with the hub's names of splits."""
    import datasets

    rows = utterances()
    parts = {}
    for ours, theirs in zip(SPLITS, ("train", "validation", "test"), strict=True):
        own = [row for row in rows if row["split"] == ours]
        parts[theirs] = datasets.Dataset.from_dict(
            {
                "id": [row["id"] for row in own],
                "sentence": [row["text"] for row in own],
                "label": [row["label"] for row in own],
                "audio": [row["audio"].tolist() for row in own],
                "vision": [row["vision"].tolist() for row in own],
            }
        )
    datasets.DatasetDict(parts).save_to_disk(folder / "hub")
    return rows


def mult(folder: Path) -> list[dict[str, Any]]:
    """Word vectors, audio and vision aligned, zeros in front, ids of three parts as bytes."""
    rows = utterances()
    generator = np.random.default_rng(1)
    for row in rows:  # a step is a word
        steps = len(row["text"].split())
        row |= {
            "text_vectors": generator.normal(size=(steps, 6)),
            "audio": generator.normal(size=(steps, AUDIO)),
            "vision": generator.normal(size=(steps, VISION)),
        }
    data = {}
    for name in SPLITS:
        own = [row for row in rows if row["split"] == name]
        data[name] = {
            "text": padded(own, "text_vectors", front=True),
            "audio": padded(own, "audio", front=True),
            "vision": padded(own, "vision", front=True),
            "labels": np.array([row["label"] for row in own], np.float32)[:, None, None],
            "id": np.array([[row["id"], "0.0", "1.5"] for row in own], "S"),
        }
    data["dev"] = data.pop("valid")
    (folder / "mosi_data.pkl").write_bytes(pickle.dumps(data, protocol=2))
    return rows


def mag_bert(folder: Path) -> list[dict[str, Any]]:
    """Tuples of words and the frames of each, label and segment."""
    rows = utterances()
    generator = np.random.default_rng(1)
    data: dict[str, Any] = {"train": [], "dev": [], "test": []}
    for row in rows:
        words = row["text"].split()
        row["vision"] = generator.normal(size=(len(words), VISION))
        row["audio"] = generator.normal(size=(len(words), AUDIO))
        label = np.array([[row["label"]]], np.float32)
        name = {"valid": "dev"}.get(row["split"], row["split"])
        data[name].append(((words, row["vision"], row["audio"]), label, row["id"]))
    (folder / "mosi.pkl").write_bytes(pickle.dumps(data, protocol=4))
    return rows


def mmsa_fet(folder: Path) -> list[dict[str, Any]]:
    """A data set with token ids, padded in front, with lengths; and one file."""
    rows = utterances()
    data = {}
    for name in SPLITS:
        own = [row for row in rows if row["split"] == name]
        tokens = np.zeros((len(own), 3, 8))
        for row, words in zip(tokens, (row["text"].split() for row in own), strict=True):
            ids = [101, *(2000 + WORDS.index(word) for word in words), 102]
            row[0, : len(ids)], row[1, : len(ids)] = ids, 1
        data[name] = {
            "id": [row["id"] for row in own],
            "raw_text": [row["text"] for row in own],
            "text_bert": tokens,
            "audio": padded(own, "audio", front=True),
            "vision": padded(own, "vision", front=True),
            "audio_lengths": [len(row["audio"]) for row in own],
            "vision_lengths": [len(row["vision"]) for row in own],
            "annotations": ["Positive"] * len(own),
            "classification_labels": [2] * len(own),
            "regression_labels": np.array([row["label"] for row in own]),
        }
    (folder / "dataset.pkl").write_bytes(pickle.dumps(data, protocol=4))
    one = {key: rows[0][key].astype(np.float32) for key in ("audio", "vision")}
    one["text_bert"] = data["train"]["text_bert"][0]
    (folder / "one.pkl").write_bytes(pickle.dumps(one, protocol=4))
    return rows


def openface_csv(
    path: Path, frames: np.ndarray, *, failed: tuple[int, ...] = (), faces: bool = True
) -> Path:
    """What OpenFace writes: names after a comma and a space, rows of failed frames being zeros."""
    names = ["frame", *["face_id"] * faces, "timestamp", "confidence", "success"]
    names += [f"gaze_{i}_x" for i in range(frames.shape[1])]
    lines = [", ".join(names)]
    kept = iter(frames)
    for number in range(1, len(frames) + len(failed) + 1):
        good = number not in failed
        values = next(kept) if good else np.zeros(frames.shape[1])
        head = [number, *[0] * faces, (number - 1) / 30, 0.98 * good, int(good)]
        lines.append(", ".join(map(repr, [*head, *map(float, values)])))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def openface(folder: Path) -> list[dict[str, Any]]:
    """A table whose vision is OpenFace's, in `openface`; and one file, `clip.csv`."""
    rows = table(folder)
    (folder / "openface").mkdir()
    for row in rows:
        openface_csv(folder / "openface" / f"{row['id']}.csv", row["vision"], failed=(2,))
    openface_csv(folder / "clip.csv", rows[0]["vision"], failed=(1, 3))
    return rows


def write_recipe(path: Path) -> Path:
    path.write_text(json.dumps({"audio": {"name": "opensmile", "version": "2.6"}}))
    return path
