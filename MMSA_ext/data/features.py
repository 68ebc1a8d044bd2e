"""Feature files in MMSA's layout: read once, safely, and checked completely.

A feature file is a pickle of ``{'train' | 'valid' | 'test': {key: value}}`` with the keys

==========================  =====================  ===============================================
key                         shape                  content
==========================  =====================  ===============================================
``id``                      n                      sample ids, unique over all splits
``raw_text``                n                      transcripts
``text_bert``               (n, 3, L)              token ids, attention mask, segment ids
``text``                    (n, L, d_t)            word vectors, instead or beside
``audio``, ``vision``       (n, L_m, d_m)          frames, zeros behind the end
``*_lengths``               n                      valid frames; derived where absent
``regression_labels``       n                      multimodal sentiment
``regression_labels_T|A|V``  n                     unimodal sentiment, optional
==========================  =====================  ===============================================

Beside the splits, ``recipe`` says who made each modality (`data.recipes`).

A modality is in every split or in none. Any real dtype is accepted and kept, float16 too; batches
are cast one by one. Nested lists, arrays of objects and labels of shape (n, 1) or (n, 1, 1) are
read as the arrays that they stand for. This is the one reading: MMSA's loader is handed what it
gives (`mmsa_bridge.feature_reading`).
"""

import hashlib
import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.feature_cache import kept_fingerprint, load_cached
from MMSA_ext.data.feature_checks import (
    Scope,
    check_labels,
    check_lengths,
    check_scales,
    check_sequence,
    check_strings,
    check_text_bert,
    derive_lengths,
)
from MMSA_ext.data.feature_layout import (
    ARRAYS,
    LABEL_KEYS,
    LoadedFile,
    check_disjoint,
    find_ids,
    find_recipe,
    find_splits,
    is_single_sample,
    load_file,
    override_modality,
)
from MMSA_ext.data.feature_report import FeatureReport, LabelSummary, LengthSummary, SplitSummary
from MMSA_ext.data.feature_set import FeatureSet, FeatureSplit
from MMSA_ext.data.front_padding import (
    FrontPadding,
    check_choice,
    check_front_padding,
    turned,
    turned_tokens,
)
from MMSA_ext.data.safe_pickle import safe_load
from MMSA_ext.data.shards import is_sharded, load_shards, shards_digest
from MMSA_ext.datasets import SHIPPED, Dataset, get_dataset
from MMSA_ext.errors import ConfigError, FeatureFileError
from MMSA_ext.files import replaced
from MMSA_ext.metrics import neutral_label
from MMSA_ext.names import FRAMES, MODALITIES
from MMSA_ext.paths import expand_file

__all__ = [
    "FeatureReport",
    "FeatureSet",
    "FeatureSplit",
    "base_file",
    "check_features",
    "features_of",
    "fingerprint",
    "is_single_sample",
    "read_features",
    "safe_load",
    "write_features",
]

_MODALITY_OF = dict(zip("TAV", MODALITIES, strict=True))
_TEXT_KEYS = ("text_bert", "text")
_FARTHEST_MEAN = 1.5  # deviations from 0; that of MOSI is 0.16
_FEWEST_LABELS = 20  # fewer may lie in a part of their range by chance
PathLike = str | os.PathLike[str]


def read_features(
    path: PathLike | None,
    dataset: Dataset | str | None = None,
    *,
    feature_T: PathLike | None = None,  # noqa: N803 - MMSA's names
    feature_A: PathLike | None = None,  # noqa: N803
    feature_V: PathLike | None = None,  # noqa: N803
    require_labels: bool = True,
    front_padding: FrontPadding | None = None,
    cache: bool = True,
) -> FeatureSet:
    """Read a feature file once, check all of it, and repair what MMSA repairs.

    A large file is kept as memory-mapped arrays, and the next reading of the same content takes
    those (see `data.feature_cache`); what is read is the same, bit for bit.

    Args:
        path: the file, or a folder of shards (`data.shards`), all of which are then in memory; `~`
            is expanded. None where the other three are given: ids, texts and labels are then those
            of `feature_T`.
        dataset: decides the label range; None, and a name that is not known, check none.
        feature_T: file that replaces text, as in MMSA.
        feature_A: file that replaces audio.
        feature_V: file that replaces vision.
        require_labels: True: all three splits with labels, as training needs. False: any of the
            splits, labels optional, or a file of one sample as `MMSA_test` takes it: `audio`
            (L_a, d_a), `vision` (L_v, d_v), `text_bert` (3, L), `text` (L, d_t), which becomes
            the split `sample`.
        front_padding: what to do where zeros are in front of the frames instead of behind them
            (see `front_padding.check_front_padding`): None refuses the file, `turn` moves them
            behind the frames, `keep` reads the frames as they are.
        cache: whether to use, and fill, the user's cache.

    Returns:
        Splits and report.

    Raises:
        FeatureFileError: the file is missing, unsafe or damaged, or has problems; the message
            lists all of them.
        ConfigError: `front_padding` is none of these.
    """
    load = load_cached if cache else load_file
    sources = _sources(path, feature_T, feature_A, feature_V)
    return _usable(_read(sources, dataset, require_labels, front_padding, _any_kind(load)))


def features_of(splits: Mapping[str, Any], source: PathLike) -> FeatureSet:
    """Features in memory, checked and repaired as those of a file that is to be scored.

    Args:
        splits: name -> split in MMSA's layout; frames are read as they are.
        source: what messages call them.

    Raises:
        FeatureFileError: as `read_features`.
    """
    path = Path(source)
    loaded = LoadedFile(path, splits, "", 0)
    return _usable(_read(_Sources(path, {}), None, False, "keep", lambda _: loaded))


def _usable(features: FeatureSet) -> FeatureSet:
    if not features.report.ok:
        raise FeatureFileError(features.report.error_message())
    return features


def _any_kind(load: Callable[[Path], LoadedFile]) -> Callable[[Path], LoadedFile]:
    """`load` for feature files, and what reads shards for these."""
    return lambda path: load_shards(path) if is_sharded(path) else load(path)


def check_features(
    path: PathLike | None,
    dataset: Dataset | str | None = None,
    *,
    feature_T: PathLike | None = None,  # noqa: N803
    feature_A: PathLike | None = None,  # noqa: N803
    feature_V: PathLike | None = None,  # noqa: N803
    require_labels: bool = True,
    front_padding: FrontPadding | None = None,
) -> FeatureReport:
    """Check a feature file and report; problems of content do not raise.

    Arguments are those of `read_features`.

    Returns:
        The report; print `report.render()`.

    Raises:
        FeatureFileError: the file is missing, unsafe or damaged, so that there is no content.
        ConfigError: `front_padding` is not known.
    """
    sources = _sources(path, feature_T, feature_A, feature_V)
    load = _any_kind(load_file)
    return _read(sources, dataset, require_labels, front_padding, load).report


def fingerprint(
    path: PathLike | None,
    *,
    feature_T: PathLike | None = None,  # noqa: N803
    feature_A: PathLike | None = None,  # noqa: N803
    feature_V: PathLike | None = None,  # noqa: N803
) -> str:
    """The fingerprint that `read_features` gives these files, without reading what is in them.

    Raises:
        FeatureFileError: a file cannot be read.
    """
    sources = _sources(path, feature_T, feature_A, feature_V)
    found = _file_digest(sources.base)
    for role, other in sources.others.items():
        found = _joined_fingerprint(found, role, _file_digest(other))
    return found


def base_file(
    given: PathLike | None, configured: PathLike, modalities: Iterable[PathLike | None]
) -> PathLike | None:
    """Which base file a run reads: the one it was given, or else the configured one.

    Args:
        given: file in place of the configured one, or None.
        configured: path that the configuration states; the file need not be there.
        modalities: `feature_T`, `feature_A` and `feature_V`, or None.

    Returns:
        For `read_features`: None where the configured file is not there and none is needed.
    """
    needed = given or not all(modalities) or Path(configured).expanduser().exists()
    return (given or configured) if needed else None


@dataclass(frozen=True)
class _Sources:
    """The files of one reading: the base, and by role (`T`, `A`, `V`) those of a modality."""

    base: Path
    others: dict[str, Path]
    without_base: bool = False


def _sources(
    path: PathLike | None, text: PathLike | None, audio: PathLike | None, vision: PathLike | None
) -> _Sources:
    given = {"T": text, "A": audio, "V": vision}
    # MMSA's default is an empty string.
    others = {role: Path(expand_file(other)) for role, other in given.items() if other}
    base = Path(expand_file(path)) if path else None
    if base is None and len(others) == len(given):
        return _Sources(others.pop("T"), others, without_base=True)
    if base is None:
        raise FeatureFileError(
            "No feature file is given. Give one, or all of feature_T, feature_A and feature_V."
        )
    return _Sources(base, others)


def _file_digest(path: Path) -> str:
    if is_sharded(path):
        return shards_digest(path)
    try:
        found = path.stat()
        return _digest_of(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    except OSError as error:
        raise FeatureFileError(f"Feature file {path} cannot be read: {error}.") from error


@lru_cache(maxsize=64)
def _digest_of(path: Path, *status: int) -> str:
    """Digest of a file as it is; each status that it has is hashed once, or not if it is cached."""
    if (known := kept_fingerprint(path)) is not None:
        return known
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _joined_fingerprint(base: str, role: str, added: str) -> str:
    """Fingerprint of a file with one modality from another file."""
    return hashlib.sha256(f"{base} feature_{role}={added}".encode()).hexdigest()


def write_features(path: PathLike, data: Mapping[str, Any]) -> Path:
    """Write a feature file so that it is either complete or not there.

    Args:
        path: the file; missing folders are made, an existing file is replaced.
        data: content in MMSA's layout; numpy arrays, numbers, text, lists, tuples and dicts only.

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
    sources: _Sources,
    dataset: Dataset | str | None,
    require_labels: bool,
    front_padding: FrontPadding | None,
    load: Callable[[Path], LoadedFile],
) -> FeatureSet:
    check_choice(front_padding)
    base = sources.base
    report = FeatureReport(base, dataset if isinstance(dataset, Dataset) else None)
    if dataset and report.dataset is None:
        try:
            report.dataset = get_dataset(str(dataset))
        except ConfigError as error:
            report.notes.append(f"The label range is not checked: {error}")
    if sources.without_base:
        report.notes.append("Without a base file, ids, texts and labels are those of feature_T.")
    loaded = load(base)
    report.fingerprint, report.size = loaded.fingerprint, loaded.size
    _note_recipe(report, loaded, MODALITIES)
    raw_splits = find_splits(loaded.data, report, require_labels)
    scopes = {
        name: Scope(report, name, known=dict(loaded.known.get(name, {}))) for name in raw_splits
    }
    del loaded  # so that a replaced modality can leave the memory
    for name, raw in raw_splits.items():
        scopes[name].ids = find_ids(scopes[name], raw, require_labels)
    check_disjoint(report, {name: scope.ids for name, scope in scopes.items()})
    for role, other in sources.others.items():
        added = load(other)
        override_modality(role, added, raw_splits, scopes)
        _note_recipe(report, added, [_MODALITY_OF[role]])
        report.fingerprint = _joined_fingerprint(report.fingerprint, role, added.fingerprint)
    _check_text_keys(scopes, raw_splits)
    absent = _absent(scopes, raw_splits)
    report.notes += [
        f"{key}: absent; models that do not read it can be run." for key in absent if key in FRAMES
    ]
    if "text" in absent:
        report.warnings.append(
            "text: absent, for neither 'text_bert' nor 'text' is there; few models do without. Run "
            "`mmsa-ext encode-text` on the file to have it from 'raw_text'."
        )
    splits: dict[str, FeatureSplit] = {}
    for name, raw in raw_splits.items():
        split = _split(scopes[name], raw, absent, require_labels, turn=front_padding == "turn")
        if split is not None:
            splits[name] = split
            report.summary[name] = _summary(split, _neutral(report.dataset))
    _check_agreement(report, splits)
    if front_padding is None:
        check_front_padding(report, {name: scope.known for name, scope in scopes.items()})
    for key in FRAMES if "train" in scopes else ():
        check_scales(scopes["train"], key)
    if require_labels:
        _check_variation(scopes, splits)
        _check_label_scale(report, splits)
        _check_label_centre(report, splits)
    return FeatureSet(base, report.fingerprint, splits, report, front_padding)


def _note_recipe(report: FeatureReport, loaded: LoadedFile, modalities: Iterable[str]) -> None:
    """The recipe of the modalities that come from a file, in place of what was known of them."""
    found, broken = find_recipe(loaded.data)
    source = "" if loaded.path == report.path else f"of {loaded.path} "
    report.problems += [f"recipe {source}{problem}" for problem in broken]
    for modality in modalities:
        report.recipe.pop(modality, None)
        report.recipe |= {modality: found[modality]} if modality in found else {}


def _split(
    scope: Scope, raw: dict[str, Any], absent: Sequence[str], require_labels: bool, *, turn: bool
) -> FeatureSplit | None:
    text_bert = raw.get("text_bert")
    if text_bert is None and raw.get("text") is None and "text" not in absent:
        scope.problem(
            "text_bert", "is missing, and so is 'text'. Run `mmsa-ext encode-text` on the file."
        )
    if text_bert is not None:
        text_bert = check_text_bert(scope, turned_tokens(text_bert) if turn else text_bert)
    read = [key for key in ("text", *FRAMES) if key not in absent]
    sequences = {key: _sequence(scope, raw, key) for key in read}
    lengths = {
        key: _stored_lengths(scope, raw, key, sequences[key]) for key in read if key in FRAMES
    }
    raw_text = _raw_text(scope, raw, require_labels)
    labels = _labels(scope, raw, require_labels)
    values = {
        "id": scope.ids or None,
        "raw_text": raw_text,
        "text_bert": text_bert,
        **sequences,
        **{f"{key}_lengths": known for key, known in lengths.items()},
        **{LABEL_KEYS[kind]: value for kind, value in labels.items()},
    }
    counts = {key: len(value) for key, value in values.items() if value is not None}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{key} {count}" for key, count in counts.items())
        scope.problem("samples", f"the keys differ in their number of samples: {listed}.")
        return None
    moved = _turn(scope, sequences, lengths) if turn else set()
    for key in lengths:
        if raw.get(key) is not None and raw.get(f"{key}_lengths") is None:
            lengths[key] = _derived_lengths(scope, key, sequences[key], anew=key in moved)
    for key in FRAMES:
        if key in absent:
            sequences[key] = np.zeros((len(scope.ids), 1, 0), np.float32)
            lengths[key] = np.zeros(len(scope.ids), np.int64)
    audio, vision = sequences["audio"], sequences["vision"]
    audio_lengths, vision_lengths = lengths["audio"], lengths["vision"]
    if audio is None or vision is None or audio_lengths is None or vision_lengths is None:
        return None
    if not scope.ids:
        return None
    return FeatureSplit(
        scope.split,
        list(scope.ids),
        raw_text or [""] * len(scope.ids),
        text_bert,
        sequences.get("text"),
        audio,
        vision,
        audio_lengths,
        vision_lengths,
        labels,
        {
            key: np.array(known.gaps, np.int64)
            for key in FRAMES
            if (known := scope.known.get(key)) is not None and known.gaps
        },
    )


def _sequence(scope: Scope, raw: dict[str, Any], key: str) -> NDArray[Any] | None:
    if raw.get(key) is not None:
        return check_sequence(scope, key, raw[key])
    if key in FRAMES:
        scope.problem(key, "is missing. Store it in every split, or, lengths too, in none.")
    return None


def _stored_lengths(
    scope: Scope, raw: dict[str, Any], key: str, array: NDArray[Any] | None
) -> NDArray[np.int64] | None:
    stored = raw.get(f"{key}_lengths")
    if stored is None or raw.get(key) is None:
        return None
    time = None if array is None else array.shape[1]
    return check_lengths(scope, f"{key}_lengths", stored, time)


def _derived_lengths(
    scope: Scope, key: str, array: NDArray[Any] | None, *, anew: bool
) -> NDArray[np.int64] | None:
    if array is None:
        return None
    ends = None if anew else scope.known[key].ends
    return derive_lengths(scope, f"{key}_lengths", array, ends)


def _turn(
    scope: Scope,
    sequences: dict[str, NDArray[Any] | None],
    lengths: dict[str, NDArray[np.int64] | None],
) -> set[str]:
    """Turn padding in front round, in place of the arrays of `sequences`; which were changed."""
    found = {key: array for key, array in sequences.items() if array is not None}
    known = {key: n for key, n in lengths.items() if n is not None and key in found}
    moved = set()
    for key, (array, count) in turned(found, known).items():
        sequences[key] = array
        if count:
            moved.add(key)
            scope.note(key, f"zero frames in front of {count} samples were moved behind them.")
    return moved


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
        meant = " Rename 'labels' to this, if they are it." if "labels" in raw else ""
        scope.problem(
            LABEL_KEYS["M"], f"is missing. Training and testing need a label a sample.{meant}"
        )
    unimodal = [LABEL_KEYS[kind] for kind in absent if kind != "M"]
    of_sims = scope.report.dataset is not None and scope.report.dataset.metrics == "sims"
    if unimodal and required and of_sims:
        scope.note(", ".join(unimodal), "absent. MMSA's mlf_dnn, mlmf and mtfn need them.")
    return labels


def _check_variation(scopes: dict[str, Scope], splits: dict[str, FeatureSplit]) -> None:
    """Nothing is learned from labels that are all the same, and of them not all can be scored."""
    for name, split in splits.items():
        labels = split.labels.get("M")
        if labels is None or not np.isfinite(labels).all() or labels.min() < labels.max():
            continue
        where = f"all {len(labels)} samples" if len(labels) > 1 else "its only sample"
        what = f"is {labels[0]:g} in {where}"
        if name == "train":
            scopes[name].problem(
                LABEL_KEYS["M"], f"{what}; a model learns nothing from that. Add other samples."
            )
        else:
            neutral = _neutral(scopes[name].report.dataset)
            undefined = "Corr" if labels[0] != neutral else "Corr, and Non0_* where they are scored"
            scopes[name].warning(
                LABEL_KEYS["M"], f"{what}; not defined on this split: {undefined}."
            )


def _neutral(dataset: Dataset | None) -> float:
    return 0.0 if dataset is None else neutral_label(dataset)


def _check_label_scale(report: FeatureReport, splits: dict[str, FeatureSplit]) -> None:
    """Warn where all labels lie in the range of a data set with a smaller one."""
    if report.dataset is None or report.dataset.name not in SHIPPED:
        return
    labels = [split.labels["M"] for split in splits.values() if "M" in split.labels]
    low, high = report.dataset.label_range
    other_low, other_high = SHIPPED["sims"].label_range
    if sum(map(len, labels)) < _FEWEST_LABELS or high <= other_high:
        return
    if not (np.abs(np.concatenate(labels)) <= other_high).all():
        return
    report.warnings.append(
        f"[{', '.join(splits)}] {LABEL_KEYS['M']}: all are within [{other_low:g}, {other_high:g}], "
        f"the range of sims, and the file is read as {report.dataset.name}, whose range is "
        f"[{low:g}, {high:g}]: its classes, as in Acc-7, would mean nothing. Name the data set "
        "whose scale the labels have, or rescale them."
    )


def _check_label_centre(report: FeatureReport, splits: dict[str, FeatureSplit]) -> None:
    """Warn where the training labels of a data set of one's own are far from 0."""
    labels = splits["train"].labels.get("M") if "train" in splits else None
    if report.dataset is None or report.dataset.name in SHIPPED or labels is None:
        return
    mean, spread = float(labels.mean()), float(labels.std())
    if abs(mean) > _FARTHEST_MEAN * spread > 0:
        low, high = report.dataset.label_range
        report.warnings.append(
            f"[train] {LABEL_KEYS['M']}: are around {mean:.3g} with a deviation of {spread:.2g}. "
            "Models start at 0, with learning rates for labels around it, and may learn no more "
            f"than the mean. Subtract {(low + high) / 2:g}, the middle of label_range, from labels "
            "and range."
        )


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


def _absent(scopes: dict[str, Scope], raw_splits: dict[str, dict[str, Any]]) -> list[str]:
    """Modalities of which no split has anything, nor was to have it from another file."""
    keys = {"text": _TEXT_KEYS, **{key: (key, f"{key}_lengths") for key in FRAMES}}
    there = {
        modality
        for name, raw in raw_splits.items()
        for modality, own in keys.items()
        if own[0] in scopes[name].sources or any(raw.get(key) is not None for key in own)
    }
    return [modality for modality in keys if raw_splits and modality not in there]


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


def _summary(split: FeatureSplit, neutral: float) -> SplitSummary:
    there = [key for key in FRAMES if key not in split.absent]
    arrays = {key: getattr(split, key) for key in ARRAYS if key not in split.absent}
    frames = {key: split.frames(key) for key in there}
    lengths = {
        key: LengthSummary.of(steps, array.shape[1]) for key, (array, steps) in frames.items()
    }
    if split.text_bert is not None:
        tokens = (split.text_bert[:, 1] == 1).sum(axis=1)
        lengths = {"text": LengthSummary.of(tokens, split.text_bert.shape[2])} | lengths
    return SplitSummary(
        len(split),
        {key: (a.shape, str(a.dtype)) for key, a in arrays.items() if a is not None},
        lengths,
        {
            kind: LabelSummary.of(values, neutral)
            for kind, values in split.labels.items()
            if np.isfinite(values).any()
        },
    )
