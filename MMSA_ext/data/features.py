"""Feature files in MMSA's layout: read once, safely, and checked completely.

A feature file is a pickle of ``{'train' | 'valid' | 'test': {key: value}}`` with the keys

==========================  =====================  ===============================================
key                         shape                  content
==========================  =====================  ===============================================
``id``                      n                      sample ids, unique over all splits
``raw_text``                n                      transcripts
``text_bert``               (n, 3, L)              token ids, attention mask, segment ids
``text``                    (n, L, d_t)            word vectors; this or ``text_bert`` is needed
``audio``, ``vision``       (n, L_m, d_m)          frames, zeros behind the end
``*_lengths``               n                      valid frames; derived where absent
``regression_labels``       n                      multimodal sentiment
``regression_labels_T|A|V``  n                     unimodal sentiment, optional
==========================  =====================  ===============================================

Any real dtype is accepted and kept, float16 too; batches are cast one by one.
"""

import hashlib
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.feature_cache import CachedReading
from MMSA_ext.data.feature_checks import (
    LABEL_RANGES,
    Scope,
    check_labels,
    check_lengths,
    check_sequence,
    check_strings,
    check_text_bert,
    derive_lengths,
)
from MMSA_ext.data.feature_layout import (
    ARRAYS,
    LABEL_KEYS,
    SPLITS,
    LoadedFile,
    check_disjoint,
    find_ids,
    find_splits,
    is_single_sample,
    load_file,
    override_modality,
)
from MMSA_ext.data.feature_report import FeatureReport, LabelSummary, LengthSummary, SplitSummary
from MMSA_ext.data.safe_pickle import safe_load
from MMSA_ext.errors import FeatureFileError
from MMSA_ext.files import replaced
from MMSA_ext.paths import expand_file

__all__ = [
    "SPLITS",
    "FeatureReport",
    "FeatureSet",
    "FeatureSplit",
    "check_features",
    "fingerprint",
    "is_single_sample",
    "read_features",
    "safe_load",
    "write_features",
]

_TEXT_KEYS = ("text_bert", "text")
PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class FeatureSplit:
    """Checked arrays of one split, in stored dtype, sample by sample in file order.

    Arrays may be read-only maps of a cached file: copy what is to be changed.

    Attributes:
        name: `train`, `valid`, `test`, or `sample` for a file of one sample.
        ids: n sample ids.
        raw_text: n transcripts, empty where the file has none.
        text_bert: (n, 3, L) token ids, mask, segment ids; or None.
        text: (n, L, d_t) word vectors; or None.
        audio: (n, L_a, d_a).
        vision: (n, L_v, d_v).
        audio_lengths: (n,) int64, 1..L_a frames.
        vision_lengths: (n,) int64, 1..L_v frames.
        labels: `M`, and `T`, `A`, `V` where present -> (n,) float32.
    """

    name: str
    ids: list[str]
    raw_text: list[str]
    text_bert: NDArray[Any] | None
    text: NDArray[Any] | None
    audio: NDArray[Any]
    vision: NDArray[Any]
    audio_lengths: NDArray[np.int64]
    vision_lengths: NDArray[np.int64]
    labels: dict[str, NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class FeatureSet:
    """A checked feature file.

    Attributes:
        path: the base file.
        fingerprint: SHA-256 of the file's bytes; with `feature_T`, `feature_A` or `feature_V`
            SHA-256 over the roles and fingerprints of all files.
        splits: name -> split, in the order train, valid, test.
        report: what was found.
    """

    path: Path
    fingerprint: str
    splits: dict[str, FeatureSplit]
    report: FeatureReport


def read_features(
    path: PathLike,
    dataset: str | None = None,
    *,
    feature_T: PathLike | None = None,  # noqa: N803 - MMSA's names
    feature_A: PathLike | None = None,  # noqa: N803
    feature_V: PathLike | None = None,  # noqa: N803
    require_labels: bool = True,
    cache: bool = True,
) -> FeatureSet:
    """Read a feature file once, check all of it, and repair what MMSA repairs.

    A large file is kept as memory-mapped arrays, and the next reading of the same content takes
    those (see `data.feature_cache`); what is read is the same, bit for bit.

    Args:
        path: the file; `~` is expanded.
        dataset: `mosi`, `mosei` or `sims` decides the label range; None checks no range.
        feature_T: file that replaces text, as in MMSA.
        feature_A: file that replaces audio.
        feature_V: file that replaces vision.
        require_labels: True: all three splits with labels, as training needs. False: any of the
            splits, labels optional, or a file of one sample as `MMSA_test` takes it: `audio`
            (L_a, d_a), `vision` (L_v, d_v), `text_bert` (3, L), `text` (L, d_t), which becomes
            the split `sample`.
        cache: whether to use, and fill, the user's cache.

    Returns:
        Splits and report.

    Raises:
        FeatureFileError: the file is missing, unsafe or damaged, or has problems; the message
            lists all of them.
    """
    others = {"T": feature_T, "A": feature_A, "V": feature_V}
    files = CachedReading.of_user() if cache else None
    load = load_file if files is None else files.load
    features = _read(path, dataset, others, require_labels, load)
    if not features.report.ok:
        raise FeatureFileError(features.report.error_message())
    if files is not None and files.keep():
        # The maps take the place of what was read, whose memory is then free.
        features = _read(path, dataset, others, require_labels, load)
    return features


def check_features(
    path: PathLike,
    dataset: str | None = None,
    *,
    feature_T: PathLike | None = None,  # noqa: N803
    feature_A: PathLike | None = None,  # noqa: N803
    feature_V: PathLike | None = None,  # noqa: N803
    require_labels: bool = True,
) -> FeatureReport:
    """Check a feature file and report; problems of content do not raise.

    Args:
        path: as for `read_features`, like the rest.
        dataset: as for `read_features`.
        feature_T: as for `read_features`.
        feature_A: as for `read_features`.
        feature_V: as for `read_features`.
        require_labels: as for `read_features`.

    Returns:
        The report; print `report.render()`.

    Raises:
        FeatureFileError: the file is missing, unsafe or damaged, so that there is no content.
    """
    others = {"T": feature_T, "A": feature_A, "V": feature_V}
    return _read(path, dataset, others, require_labels, load_file).report


def fingerprint(
    path: PathLike,
    *,
    feature_T: PathLike | None = None,  # noqa: N803
    feature_A: PathLike | None = None,  # noqa: N803
    feature_V: PathLike | None = None,  # noqa: N803
) -> str:
    """The fingerprint that `read_features` gives these files, without reading what is in them.

    Args:
        path: as for `read_features`, like the rest.
        feature_T: as for `read_features`.
        feature_A: as for `read_features`.
        feature_V: as for `read_features`.

    Raises:
        FeatureFileError: a file cannot be read.
    """
    found = _file_digest(path)
    for role, other in {"T": feature_T, "A": feature_A, "V": feature_V}.items():
        if other:
            found = _joined_fingerprint(found, role, _file_digest(other))
    return found


def _file_digest(path: PathLike) -> str:
    try:
        with Path(expand_file(path)).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FeatureFileError(f"Feature file {path} cannot be read: {error}.") from error


def _joined_fingerprint(base: str, role: str, added: str) -> str:
    """Fingerprint of a file with one modality from another file."""
    return hashlib.sha256(f"{base} feature_{role}={added}".encode()).hexdigest()


def write_features(path: PathLike, data: Mapping[str, Any]) -> Path:
    """Write a feature file so that it is either complete or not there.

    Args:
        path: the file; missing folders are made, an existing file is replaced.
        data: content in MMSA's layout; numpy arrays and builtin containers only.

    Returns:
        The path written.

    Raises:
        WriteError: the disk refuses.
    """
    target = Path(path).expanduser()
    with replaced(target) as staged, staged.open("wb") as file:
        pickle.dump(dict(data), file, protocol=4)
    return target


def _read(
    path: PathLike,
    dataset: str | None,
    others: dict[str, PathLike | None],
    require_labels: bool,
    load: Callable[[Path], LoadedFile],
) -> FeatureSet:
    base = Path(expand_file(path))
    report = FeatureReport(base, dataset.lower() if dataset else None)
    if report.dataset is not None and report.dataset not in LABEL_RANGES:
        report.notes.append(f"The label range of data set {dataset!r} is not known: not checked.")
        report.dataset = None
    loaded = load(base)
    report.fingerprint, report.size = loaded.fingerprint, loaded.size
    raw_splits = find_splits(loaded.data, report, require_labels)
    scopes = {
        name: Scope(report, name, known=dict(loaded.known.get(name, {}))) for name in raw_splits
    }
    del loaded  # so that a replaced modality can leave the memory
    for name, raw in raw_splits.items():
        scopes[name].ids = find_ids(scopes[name], raw, require_labels)
    check_disjoint(report, {name: scope.ids for name, scope in scopes.items()})
    for role, other in others.items():
        if other:  # MMSA's default is an empty string
            added = load(Path(expand_file(other)))
            override_modality(role, added, raw_splits, scopes)
            report.fingerprint = _joined_fingerprint(report.fingerprint, role, added.fingerprint)
    _check_text_keys(scopes, raw_splits)
    splits: dict[str, FeatureSplit] = {}
    for name, raw in raw_splits.items():
        split = _split(scopes[name], raw, require_labels)
        if split is not None:
            splits[name] = split
            report.summary[name] = _summary(split)
    _check_agreement(report, splits)
    return FeatureSet(base, report.fingerprint, splits, report)


def _split(scope: Scope, raw: dict[str, Any], require_labels: bool) -> FeatureSplit | None:
    text_bert = text = None
    if raw.get("text_bert") is not None:
        text_bert = check_text_bert(scope, raw["text_bert"])
    if raw.get("text") is not None:
        text = check_sequence(scope, "text", raw["text"])
    if raw.get("text_bert") is None and raw.get("text") is None:
        scope.problem(
            "text_bert", "is missing, and so is 'text'. Run `mmsa-ext encode-text` on the file."
        )
    audio, audio_lengths = _modality(scope, raw, "audio")
    vision, vision_lengths = _modality(scope, raw, "vision")
    raw_text = _raw_text(scope, raw, require_labels)
    labels = _labels(scope, raw, require_labels)
    values = {
        "id": scope.ids or None,
        "raw_text": raw_text,
        "text_bert": text_bert,
        "text": text,
        "audio": audio,
        "vision": vision,
        "audio_lengths": audio_lengths,
        "vision_lengths": vision_lengths,
    } | {LABEL_KEYS[kind]: value for kind, value in labels.items()}
    counts = {key: len(value) for key, value in values.items() if value is not None}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{key} {count}" for key, count in counts.items())
        scope.problem("samples", f"the keys differ in their number of samples: {listed}.")
        return None
    if audio is None or vision is None or audio_lengths is None or vision_lengths is None:
        return None
    if not scope.ids:
        return None
    return FeatureSplit(
        scope.split,
        list(scope.ids),
        raw_text or [""] * len(scope.ids),
        text_bert,
        text,
        audio,
        vision,
        audio_lengths,
        vision_lengths,
        labels,
    )


def _modality(
    scope: Scope, raw: dict[str, Any], key: str
) -> tuple[NDArray[Any] | None, NDArray[np.int64] | None]:
    if raw.get(key) is None:
        scope.problem(
            key,
            "is missing. Without this modality store zeros of shape (samples, 1, features).",
        )
        return None, None
    array = check_sequence(scope, key, raw[key])
    lengths_key = f"{key}_lengths"
    if raw.get(lengths_key) is not None:
        time = None if array is None else array.shape[1]
        return array, check_lengths(scope, lengths_key, raw[lengths_key], time)
    if array is None:
        return None, None
    known = scope.known.get(key)
    return array, derive_lengths(scope, lengths_key, array, known.ends if known else None)


def _raw_text(scope: Scope, raw: dict[str, Any], required: bool) -> list[str] | None:
    if raw.get("raw_text") is not None:
        return check_strings(scope, "raw_text", raw["raw_text"])
    if required:
        scope.problem(
            "raw_text", "is missing; MMSA reads it. Store one text a sample; it may be empty."
        )
    return None


def _labels(scope: Scope, raw: dict[str, Any], required: bool) -> dict[str, NDArray[np.float32]]:
    labels: dict[str, NDArray[np.float32]] = {}
    absent = [kind for kind, key in LABEL_KEYS.items() if raw.get(key) is None]
    for kind, key in LABEL_KEYS.items():
        if kind in absent:
            continue
        checked = check_labels(scope, key, raw[key], scope.report.dataset, required=required)
        if checked is not None:
            labels[kind] = checked
    if "M" in absent and required:
        scope.problem(LABEL_KEYS["M"], "is missing. Training and testing need a label a sample.")
    unimodal = [LABEL_KEYS[kind] for kind in absent if kind != "M"]
    if unimodal and required and (scope.report.dataset or "").startswith("sims"):
        scope.note(", ".join(unimodal), "absent. MMSA's own models need them on SIMS; ours do not.")
    return labels


def _check_text_keys(scopes: dict[str, Scope], raw_splits: dict[str, dict[str, Any]]) -> None:
    """A model reads one text key, so what one split has every split must have."""
    present = {
        name: [key for key in _TEXT_KEYS if raw.get(key) is not None]
        for name, raw in raw_splits.items()
    }
    for name, keys in present.items():
        for key in _TEXT_KEYS:
            having = ", ".join(other for other in present if key in present[other])
            if keys and key not in keys and having:
                scopes[name].problem(
                    key, f"is missing, but {having} has it. Store it in every split or in none."
                )


def _check_agreement(report: FeatureReport, splits: dict[str, FeatureSplit]) -> None:
    """Compare feature sizes and sequence sizes over the splits."""
    for key in ARRAYS:
        shapes = {
            name: array.shape
            for name, split in splits.items()
            if (array := getattr(split, key)) is not None
        }
        time_axis, feature_axis = (2, 1) if key == "text_bert" else (1, 2)
        widths = {name: shape[feature_axis] for name, shape in shapes.items()}
        if len(set(widths.values())) > 1:
            report.problems.append(
                f"[{', '.join(widths)}] {key}: the feature dimension differs between splits "
                f"({_listed(widths)}). Extract all splits with one extractor."
            )
        times = {name: shape[time_axis] for name, shape in shapes.items()}
        if len(set(times.values())) > 1:
            report.warnings.append(
                f"[{', '.join(times)}] {key}: the time dimension differs between splits "
                f"({_listed(times)}). Models built for one length need equal padding."
            )


def _listed(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def _summary(split: FeatureSplit) -> SplitSummary:
    arrays = {key: getattr(split, key) for key in ARRAYS}
    lengths = {
        "audio": LengthSummary.of(split.audio_lengths, split.audio.shape[1]),
        "vision": LengthSummary.of(split.vision_lengths, split.vision.shape[1]),
    }
    if split.text_bert is not None:
        tokens = (split.text_bert[:, 1] == 1).sum(axis=1)
        lengths = {"text": LengthSummary.of(tokens, split.text_bert.shape[2])} | lengths
    return SplitSummary(
        len(split),
        {key: (a.shape, str(a.dtype)) for key, a in arrays.items() if a is not None},
        lengths,
        {kind: LabelSummary.of(v) for kind, v in split.labels.items() if np.isfinite(v).any()},
    )
