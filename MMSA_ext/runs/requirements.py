"""What a model needs of its data and cannot do without: refused before it is trained.

MMSA's loaders and models accept such data and fail later, in a loss that is not a number or in an
error of torch that names neither the model nor the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from MMSA_ext import mmsa_bridge, mmsa_files
from MMSA_ext.data.corruption import CorruptionConfig
from MMSA_ext.data.feature_report import SplitSummary
from MMSA_ext.data.features import FeatureSet
from MMSA_ext.errors import ConfigError
from MMSA_ext.metrics import neutral_label
from MMSA_ext.registry import host_of, unread_modalities

__all__ = ["check"]

# Models of MMSA that cannot be trained on a batch of one, and what needs more.
_BATCH_NORM = "its batch normalisation takes a variance over samples"
_NEED_TWO_SAMPLES = {
    **dict.fromkeys(("lf_dnn", "tfn", "lmf", "mlf_dnn", "mtfn", "mlmf", "tfr_net"), _BATCH_NORM),
    "mmim": "it splits a batch into positive and negative samples",
}
_KERNELS = {"text": "l", "audio": "a", "vision": "v"}
# Models whose trainer adds up the gradients of `update_epochs` batches before it makes a step.
_ACCUMULATE = ("mult", "misa", "self_mm")


def check(
    args: Mapping[str, Any], features: FeatureSet, corruption: CorruptionConfig | None = None
) -> None:
    """Refuse what a model cannot be trained on.

    Args:
        args: Configuration of the run.
        features: The data before `corruption`.
        corruption: What will be taken from them; None is nothing.

    Raises:
        ConfigError: With every reason.
    """
    model = str(args["model_name"])
    if missing := [key for key in features.absent if key not in unread_modalities(args)]:
        mend = "run a model that does not, such as text_only"
        if "text" in missing:
            mend = "fill text in from 'raw_text' with `mmsa-ext encode-text`"
        raise ConfigError(
            f"{features.path}: has no {' and no '.join(missing)}, which {model} reads; {mend}, or "
            f"give a file with {' and '.join(missing)}."
        )
    host = host_of(model)
    problems = [] if corruption is None else _conflicts(corruption, args, host)
    problems += _cannot_be_selected(args, features)
    if host is not None:
        problems += _needs_of_mmsa(args, features, host)
    if problems:
        raise ConfigError(f"{model} cannot be run so:\n  " + "\n  ".join(problems))


def _needs_of_mmsa(args: Mapping[str, Any], features: FeatureSet, host: str) -> list[str]:
    """What MMSA's loop, loader and model `host` cannot do without."""
    summary = features.report.summary
    problems = _encoder_unfit(args, features, host)
    if "train" in summary:
        problems += _last_batch_of_one(args, summary["train"].samples, host)
        problems += _never_a_step(args, summary["train"].samples, host)
        problems += _lengths_unfit(args, features, summary["train"], host)
    if host == "misa" and args.get("frame_lengths", "text") == "text":
        problems += _too_short_for_misa(features)
    if host == "mmim":
        problems += _constant_for_mmim(features)
    lacking = [
        name for name, split in features.splits.items() if not split.labels.keys() >= {*"TAV"}
    ]
    if host in mmsa_files.UNIMODAL_TASKS and lacking:
        problems.append(
            f"{features.path}: {', '.join(lacking)} has no 'regression_labels_T', '_A' and '_V', "
            "from which it learns. Add them; where they are copies of 'regression_labels', say so "
            "with a key unimodal_labels: 'copied from M'."
        )
    return problems


def _conflicts(
    corruption: CorruptionConfig, args: Mapping[str, Any], host: str | None
) -> list[str]:
    problems = []
    if args.get("data_missing"):
        problems.append(
            "corruption: this model is trained on incomplete data of MMSA's own making "
            "(missing_rate, missing_seed), which it must be able to compare with the complete "
            "data; leave corruption out."
        )
    named = corruption.modalities is not None and "text" in corruption.modalities
    if corruption.noise > 0 and named and args.get("use_bert"):
        problems.append(
            "corruption: noise on text, of which this model reads token ids, has no meaning; leave "
            "'text' out of corruption.modalities, or lose tokens with corruption.drop_rate."
        )
    removed = [name for name in ("audio", "vision") if name in corruption.remove]
    if host == "mmim" and corruption.at == "all" and removed:
        problems.append(
            f"corruption: {' and '.join(removed)} removed in training leaves nothing that varies "
            "over samples, and MMIM's entropy term, the logarithm of a covariance's determinant, "
            "is then not a number; use corruption.at='test'."
        )
    return problems


def _encoder_unfit(args: Mapping[str, Any], features: FeatureSet, host: str) -> list[str]:
    """The text encoder against the model, and the file's tokens against the text encoder."""
    if not args.get("use_bert") or "pretrained" not in args:
        return []
    name, problems = args["pretrained"], []
    architecture = mmsa_bridge.encoder_architecture(name)
    if architecture is None:
        return []
    if host == "bert_mag" and architecture.model_type != "bert":
        problems.append(
            f"pretrained: {name!r} is a {architecture.model_type}, and MAG is built into the "
            "layers of a BERT; choose a BERT, such as pretrained='minilm'."
        )
    tokens = [split.text_bert for split in features.splits.values() if split.text_bert is not None]
    largest = max((int(array[:, 0].max()) for array in tokens), default=0)
    if largest >= architecture.vocab_size:
        problems.append(
            f"{features.path}: 'text_bert' has token id {largest}, but the vocabulary of {name!r} "
            f"has {architecture.vocab_size} entries. Tokenise the file for this encoder with "
            "`mmsa-ext encode-text`, or choose its own encoder by 'pretrained'."
        )
    # MMSA hands the padding to the encoder as well, so that the array's length counts.
    longest = max((array.shape[2] for array in tokens), default=0)
    if longest > (limit := getattr(architecture, "max_position_embeddings", longest)):
        problems.append(
            f"{features.path}: 'text_bert' is {longest} tokens long, and {name!r} reads at most "
            f"{limit}. Tokenise the file to that length with `mmsa-ext encode-text`."
        )
    return problems


def _last_batch_of_one(args: Mapping[str, Any], samples: int, host: str) -> list[str]:
    size = args.get("batch_size")
    if host not in _NEED_TWO_SAMPLES or not size or samples % size != (1 % size):
        return []
    if samples == 1:
        mend = "train on more samples"
    else:
        fitting = next(n for n in range(size + 1, size + samples + 1) if samples % n != 1)
        mend = f"set config={{'batch_size': {fitting}}}"
    return [
        f"batch_size: {samples} training samples in batches of {size} leave a batch of one, on "
        f"which it cannot be trained, because {_NEED_TWO_SAMPLES[host]}; {mend}."
    ]


def _never_a_step(args: Mapping[str, Any], samples: int, host: str) -> list[str]:
    """MMSA drops the gradients of batches that are too few for a step, in every epoch."""
    size, together = args.get("batch_size"), args.get("update_epochs")
    if host not in _ACCUMULATE or not size or together is None:
        return []
    batches = math.ceil(samples / size)
    if 1 <= together <= batches:
        return []
    return [
        f"update_epochs: the optimizer makes a step after each {together} batches of an epoch, and "
        f"{samples} training samples in batches of {size} are {batches}, so that no weight would "
        f"ever change; set config={{'update_epochs': {min(batches, max(1, together))}}}, or a "
        "smaller batch_size."
    ]


def _cannot_be_selected(args: Mapping[str, Any], features: FeatureSet) -> list[str]:
    """A metric that is not defined on the validation labels chooses no epoch."""
    key, valid = args.get("KeyEval", "Loss"), features.report.summary.get("valid")
    labels = None if valid is None else valid.labels.get("M")
    if labels is None or labels.minimum < labels.maximum:
        return []
    neutral = neutral_label(mmsa_bridge.data_set(args))
    if key != "Corr" and (not key.startswith("Non0") or labels.minimum != neutral):
        return []
    return [
        f"KeyEval: {key} is not defined on the validation split, whose labels are all "
        f"{labels.minimum:g}, so that it can choose no epoch; set config={{'KeyEval': 'Loss'}}."
    ]


def _lengths_unfit(
    args: Mapping[str, Any], features: FeatureSet, train: SplitSummary, host: str
) -> list[str]:
    """Sequences that are not as long as the model needs them."""
    text = train.arrays.get("text_bert" if args.get("use_bert") else "text")
    steps = {name: train.arrays[name][0][1] for name in ("audio", "vision")}
    if text is not None:
        steps["text"] = text[0][2 if args.get("use_bert") else 1]
    if host == "mctn":
        return _not_aligned(args, features, steps)
    if host == "mult" and args.get("infoenh") is None:  # InfoEnh hands over k rows of each
        return _shorter_than_kernel(args, features, steps)
    return []


def _not_aligned(
    args: Mapping[str, Any], features: FeatureSet, steps: Mapping[str, int]
) -> list[str]:
    """MCTN reads the frames of one word of all modalities at one step."""
    said = ", ".join(f"{name} {steps[name]}" for name in sorted(steps))
    limit = args["max_seq_len"]
    if args["need_data_aligned"] and len(set(steps.values())) > 1:
        return [
            f"{features.path}: is not aligned ({said} steps), and it reads modalities that are "
            "aligned word by word. Give a file of aligned features (MMSA's is aligned_50.pkl); "
            f"config={{'need_data_aligned': False}} has it read the first {limit} steps of each, "
            "whatever they hold."
        ]
    if len({min(length, limit) for length in steps.values()}) > 1:
        return [
            f"{features.path}: has fewer steps ({said}) than max_seq_len={limit} in one modality "
            f"alone; set config={{'max_seq_len': {min(steps.values())}}}."
        ]
    return []


def _shorter_than_kernel(
    args: Mapping[str, Any], features: FeatureSet, steps: Mapping[str, int]
) -> list[str]:
    problems = []
    for name, letter in _KERNELS.items():
        key = f"conv1d_kernel_size_{letter}"
        if name in steps and key in args and steps[name] < args[key]:
            problems.append(
                f"{features.path}: {name} is {steps[name]} long, below {key}={args[key]}; set"
                f" config={{'{key}': {steps[name]}}}."
            )
    return problems


def _too_short_for_misa(features: FeatureSet) -> list[str]:
    """MISA packs audio and vision by the text's length; one problem for each of the two."""
    tokens = {
        name: int((split.text_bert[:, 1] != 0).sum(axis=1).max())
        for name, split in features.splits.items()
        if split.text_bert is not None
    }
    problems = []
    for key in ("audio", "vision"):
        frames = {name: getattr(features.splits[name], key).shape[1] for name in tokens}
        short = [name for name in tokens if frames[name] < tokens[name]]
        if short:
            said = ", ".join(f"{name} has {frames[name]} for {tokens[name]}" for name in short)
            problems.append(
                f"{features.path}: {key} has fewer frames than the longest text has tokens "
                f"({said}); MISA reads as many frames as the text has tokens. Pad {key} with zeros "
                f"to {max(tokens[name] for name in short)} frames, or run misa_infoenh with "
                "frame_lengths='own' (and infoenh=None for MISA itself)."
            )
    return problems


def _constant_for_mmim(features: FeatureSet) -> list[str]:
    """MMIM takes the log-determinant of a covariance over samples."""
    train = features.splits.get("train")
    keys = ("audio", "vision") if train is not None else ()
    return [
        f"{features.path}: {key} is the same in all training samples, and MMIM's entropy term, the "
        "logarithm of a covariance's determinant, is then not a number; use another model, or a "
        f"file with {key}."
        for key in keys
        if _is_constant(getattr(train, key))
    ]


def _is_constant(values: NDArray[Any]) -> bool:
    """Whether all samples of (n, L, d) are the same, without a temporary of that size."""
    return bool((values.min(axis=0) == values.max(axis=0)).all())
