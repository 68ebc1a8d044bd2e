"""From configuration files and overrides to one validated configuration.

Files follow MMSA's schema (`commonParams`, `datasetParams`); overrides are MMSA's `config=`
dictionary. A model of this package binds the result to its typed configuration class, and every
problem is reported at once. Keys that belong to MMSA's data loading stand in `MMSAKeys`, those of
the training loop in `RunConfig`; models add their own by inheritance. Variants of MMSA's models add
a `VariantConfig` to the host's keys.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
from easydict import EasyDict
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from MMSA_ext import mmsa_bridge, mmsa_config
from MMSA_ext.data.corruption import CorruptionConfig, normalise
from MMSA_ext.data.feature_checks import OFFICIAL_LENGTHS
from MMSA_ext.data.front_padding import FrontPadding, check_choice
from MMSA_ext.data.scaling import Scaling, check_scaling, wants_scaling
from MMSA_ext.errors import ConfigError, suggest
from MMSA_ext.json_files import check_depth
from MMSA_ext.json_files import read_json as read_json
from MMSA_ext.paths import expand, expand_given, shown
from MMSA_ext.registry import (
    ModelEntry,
    get_model,
    is_registered,
    list_models,
    refusal,
    trains_in_mmsa,
)
from MMSA_ext.validation import explain, meant

DATASETS = ("mosi", "mosei", "sims")

# Where a run puts things and on what it runs: not part of what a run computes.
PLACES = frozenset(
    {"featurePath", "custom_feature", "feature_T", "feature_A", "feature_V", "model_save_path"}
    | {"device", "cur_seed", "num_workers", "train_mode"}
)
# Of these, what is an argument of `MMSA_run` and would be overruled in `config=`.
ARGUMENTS = PLACES - {"featurePath", "train_mode"}
# Keys of `MMSAKeys` that no model of this package reads.
_UNREAD = ("num_classes", "language", "missing_rate", "missing_seed")


class MMSAKeys(BaseModel):
    """Keys that MMSA's configuration files and its `MMSA_run` put into every configuration.

    Attributes:
        front_padding: What to do with zeros in front of the frames, see `data.front_padding`; None
            refuses a file that is padded so. MMSA does not know this key; its models accept it too.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    model_name: str
    dataset_name: Literal["mosi", "mosei", "sims"]
    featurePath: str  # noqa: N815 (MMSA's name)
    seq_lens: list[int] = Field(min_length=3, max_length=3)
    feature_dims: list[int] = Field(min_length=3, max_length=3)
    train_samples: int
    num_classes: int = 3
    language: Literal["en", "cn"]
    missing_rate: list[float] | None = None
    missing_seed: list[int] | None = None
    need_data_aligned: Literal[False] = False
    need_model_aligned: Literal[False] = False
    need_normalized: Literal[False] = False
    use_bert: Literal[True] = True
    front_padding: FrontPadding | None = None


class RunConfig(MMSAKeys):
    """Keys of the training loop shared by the models of this package.

    Attributes:
        KeyEval: Metric that selects the epoch on the validation split. `Loss` (the mean squared
            error of the prediction) and `MAE` are minimised, all others maximised.
        selection_digits: Compare it rounded to so many digits; of equals the later epoch is kept.
            None compares it as it is, and keeps the earlier.
        early_stop: Patience in epochs, counted from the end of warm-up; None never stops early.
        first_selected_epoch: Epochs before this one, or before the last, are never selected.
        must_beat_untrained: Count a run whose selected epoch is not better than the untrained model
            as diverged; else it is finished, with a note.
        num_epochs: Cap on epochs, and length of the learning-rate schedule.
        warmup_ratio: Share of all steps with linear warm-up; linear decay to zero follows.
        batch_size: Samples per optimisation step.
        eval_batch_size: Samples per evaluation batch; changes no result of a model that masks
            padding.
        learning_rate: Peak learning rate of AdamW.
        new_layers_learning_rate: That of all but the pretrained encoder; None is `learning_rate`.
        weight_decay: Decoupled weight decay.
        decay_norms: Whether the model's own normalisation weights decay too (released code).
        pretrained: Text encoder: a Hugging Face name, a folder, or the alias `minilm`.
        random_init: Build the text encoder's architecture with random weights.
        text_encoder_config: Architecture of the text encoder as a plain dictionary; stored in
            checkpoints, so that they load without the encoder's files.
        feature_scaling: `standardise` gives every audio and vision feature mean 0 and deviation 1
            over the training split's valid frames, see `data.scaling`; `none` leaves them. MMSA's
            own models accept this key too.
        corruption: What is taken from the data, see `data.corruption`; None is nothing. MMSA's own
            models accept this key too.
    """

    KeyEval: str = "MAE"
    selection_digits: int | None = Field(None, ge=0, le=15)
    early_stop: int | None = Field(None, ge=0)
    first_selected_epoch: int = Field(1, ge=1)
    must_beat_untrained: bool = False
    num_epochs: int = Field(100, ge=1)
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    batch_size: int = Field(16, ge=1)
    eval_batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(5e-5, gt=0)
    new_layers_learning_rate: float | None = Field(None, gt=0)
    weight_decay: float = Field(1e-3, ge=0)
    decay_norms: bool = False
    pretrained: str = "bert-base-uncased"
    random_init: bool = False
    text_encoder_config: dict[str, Any] | None = None
    feature_scaling: Scaling = "standardise"
    corruption: CorruptionConfig | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_flag(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where they would count as the numbers 1 and 0."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and {int, float} & {annotation, *get_args(annotation)}:
            raise ValueError("give a number, not true or false")
        return value

    @classmethod
    def from_args(cls, args: Any) -> Self:
        """Bind MMSA's `args` to this class; unknown keys of MMSA's run state are left out.

        Raises:
            ConfigError: With every problem of the configuration in one message.
        """
        # MMSA's tuning configurations say in `d_paras` which keys were drawn.
        run_state = PLACES | {"d_paras"}
        values = {key: value for key, value in dict(args).items() if key not in run_state}
        values["featurePath"] = str(args.get("featurePath", ""))
        return _bind(cls, values, str(values.get("model_name", cls.__name__)))

    def keys(self) -> dict[str, Any]:
        """What the run's configuration gets."""
        return self.model_dump()


class FineTuneConfig(RunConfig):
    """Keys of models that are trained otherwise than by linear decay.

    Attributes:
        max_grad_norm: The gradient of all parameters together is scaled down to this norm; None
            leaves it.
        schedule: What follows the linear warm-up: `linear` decay to zero or half a `cosine` at
            `num_epochs`, or the `constant` peak.
        schedule_unit: Whether the rate moves with every `step`, or stays through an `epoch`.
        decay_all: Decay biases and normalisation weights too.
    """

    max_grad_norm: float | None = Field(None, gt=0)
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    schedule_unit: Literal["step", "epoch"] = "step"
    decay_all: bool = False


class VariantConfig(BaseModel):
    """Keys that a variant of one of MMSA's models adds to its host's, which stay MMSA's business.

    Subclasses declare the keys as fields.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    @classmethod
    def from_args(cls, args: Any) -> Self:
        """Bind the variant's keys out of MMSA's `args`.

        Raises:
            ConfigError: With every problem of these keys in one message.
        """
        values = dict(args)
        own = {key: values[key] for key in cls.model_fields if key in values}
        return _bind(cls, own, str(values.get("model_name", cls.__name__)))

    def keys(self) -> dict[str, Any]:
        """What the run's configuration gets: the fields, and what they decide of the host's."""
        return self.model_dump()

    def check(self, args: Mapping[str, Any]) -> None:
        """Refuse a combination of the variant's keys and the host's; nothing here.

        Args:
            args: The complete configuration.

        Raises:
            ConfigError: If the combination cannot be had.
        """


_Config = TypeVar("_Config", bound=BaseModel)


def config_folder() -> Path:
    """Folder with the shipped configuration files (wheel, editable install or source tree)."""
    package = Path(__file__).resolve().parent
    inside, beside = package / "configs", package.parent / "configs"
    return inside if inside.is_dir() else beside


def extension_config(kind: Literal["regression", "tune"]) -> dict[str, Any]:
    """Configuration of this package's models, in MMSA's schema.

    A registered model without an entry in the shipped file is configured by the defaults of its
    configuration class, on every data set. A variant of a model of MMSA starts from what MMSA's
    own file says of the host.
    """
    content = read_json(config_folder() / f"config_{kind}.json")
    for name in list_models():
        entry = get_model(name)
        if entry.host is not None:
            content[name] = _variant_entry(entry, entry.host, kind, content.get(name, {}))
        else:
            section = content.setdefault(name, _default_entry(entry))
            for dataset, params in section["datasetParams"].items():
                # MMSA's own are in another order than the files.
                params.setdefault("seq_lens", list(OFFICIAL_LENGTHS[dataset]))
    return content


def _variant_entry(
    entry: ModelEntry, host: str, kind: Literal["regression", "tune"], own: dict[str, Any]
) -> dict[str, Any]:
    """MMSA's entry of the host, the variant's defaults, and on top what our file says."""
    section = mmsa_bridge.stock_section(host, kind)
    searched = section.get("debugParams", {"d_paras": []})
    added = own.get("debugParams", {"d_paras": []})
    parts = {
        "commonParams": section["commonParams"] | defaults(entry) | own.get("commonParams", {}),
        "debugParams": searched | added | {"d_paras": [*searched["d_paras"], *added["d_paras"]]},
    }
    if "datasetParams" in section:
        datasets = own.get("datasetParams", {})
        parts["datasetParams"] = {
            name: params | datasets.get(name, {})
            for name, params in section["datasetParams"].items()
        }
    return parts


def defaults(entry: ModelEntry) -> dict[str, Any]:
    """Defaults of a model's configuration class, as plain values."""
    values = {
        key: field.get_default(call_default_factory=True)
        for key, field in entry.config.model_fields.items()
        if not field.is_required() and key not in ("missing_rate", "missing_seed")
    }
    return {k: v.model_dump() if isinstance(v, BaseModel) else v for k, v in values.items()}


def _default_entry(entry: ModelEntry) -> dict[str, Any]:
    return {
        "commonParams": defaults(entry),
        "datasetParams": {dataset: {} for dataset in DATASETS},
        "debugParams": {"d_paras": []},
    }


def get_config_regression(
    model_name: str, dataset_name: str, config_file: str | Path | None = ""
) -> EasyDict:
    """Configuration of a model on a data set, for this package's models and MMSA's own.

    Args:
        model_name: Name of the model, any case.
        dataset_name: `mosi`, `mosei` or `sims`, any case.
        config_file: File in MMSA's schema; empty for the shipped ones.

    Returns:
        EasyDict with MMSA's keys and the model's.

    Raises:
        ConfigError: If the model, the data set or the file is not known or not readable.
    """
    return _get_config("regression", model_name, dataset_name, config_file)


def get_config_tune(
    model_name: str,
    dataset_name: str,
    config_file: str | Path | None = "",
    random_choice: bool = True,
) -> EasyDict:
    """Search space of a model, or with `random_choice` one random point of it, as MMSA gives it.

    Raises:
        ConfigError: If the model, the data set or the file is not known or not readable.
    """
    return _get_config("tune", model_name, dataset_name, config_file, random_choice=random_choice)


def _get_config(
    kind: Literal["regression", "tune"],
    model_name: str,
    dataset_name: str,
    config_file: str | Path | None,
    **options: Any,
) -> EasyDict:
    for name, value in (("model_name", model_name), ("dataset_name", dataset_name)):
        if not isinstance(value, str):
            raise ConfigError(
                f"{name} is {value!r:.80}; give a name, such as 'dashfusion' or 'mosi'."
            )
    model, dataset = model_name.lower(), dataset_name.lower()
    check_names(model, dataset)
    path = expand_given(config_file) or ""
    return mmsa_bridge.read_config(kind, model, dataset, path, **options)


def check_names(model: str, dataset: str) -> None:
    """Check the names of a model and a data set.

    Raises:
        ConfigError: Naming what is known, or the closest match.
    """
    known = sorted({*list_models(), *mmsa_bridge.mmsa_models()})
    if (reason := refusal(model)) is not None:
        raise ConfigError(reason)
    if model not in known:
        raise ConfigError(f"unknown model {model!r:.80}; {suggest(model, known)}")
    if dataset not in DATASETS:
        raise ConfigError(f"unknown data set {dataset!r:.80}; {suggest(dataset, list(DATASETS))}")


def resolve(
    model_name: str,
    dataset_name: str,
    config_file: str | Path | None = "",
    overrides: Mapping[str, Any] | None = None,
    *,
    searched: Mapping[str, list[Any]] | None = None,
) -> EasyDict:
    """Files and overrides to one checked configuration.

    Keys that nothing reads, wrong types and values out of range are reported together. A model of
    this package is bound to its typed class; of MMSA's own models, and variants of them, the keys
    are those that MMSA's code reads. What has the value of the shipped files is let through, so
    that a whole configuration can be given.

    Args:
        model_name: Name of the model, any case.
        dataset_name: `mosi`, `mosei` or `sims`, any case.
        config_file: File in MMSA's schema; empty for the shipped ones.
        overrides: Values that replace the file's; nested keys as in `merge`.
        searched: Choices of the keys that a search will set, from `tuning.search_space`; those that
            the configuration lacks have the first.

    Raises:
        ConfigError: With every problem in one message.
    """
    args = get_config_regression(model_name, dataset_name, config_file)
    args = merge(args, _given(args, overrides))
    try:
        return _settled(args, searched or {}, own_file=bool(config_file))
    except ConfigError as error:
        if not config_file:
            raise
        raise ConfigError(f"with {shown(config_file)}: {error}") from None


def _given(args: EasyDict, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """Overrides without those that say what is known, or belong elsewhere."""
    given = _plain_overrides(overrides)
    for key in ("model_name", "dataset_name"):
        name = given.pop(key, None)
        if name is not None and str(name).lower() != args[key]:
            raise ConfigError(
                f"config: {key!r} is {name!r:.80} but the run is for {args[key]!r}; leave it out."
            )
    misplaced = sorted(ARGUMENTS & given.keys())
    if misplaced:
        raise ConfigError(
            f"config: {', '.join(misplaced)} would have no effect here; pass it as an argument of "
            "MMSA_run (the device as gpu_ids, the checkpoint's folder as model_save_dir, the seed "
            "as seeds)."
        )
    root = given.pop("dataset_root_dir", None)
    if root is not None and "featurePath" not in given:
        given["featurePath"] = str(Path(expand(root), _relative_feature_path(args)))
    return given


def _settled(args: EasyDict, searched: Mapping[str, list[Any]], *, own_file: bool) -> EasyDict:
    """`checked`, once what is no key of a model is taken out, and first choices are put in."""
    mode = args.pop("train_mode", "regression")
    if mode != "regression":
        raise ConfigError(
            f"train_mode is {mode!r:.80}; models are trained for regression here, and scored for "
            "classes by rounding (docs/protocol.md): leave it out."
        )
    drawn = args.pop("d_paras", None) is not None
    args.featurePath = expand(args.featurePath)
    corruption = normalise(args.pop("corruption", None))
    if corruption is not None:
        args.corruption = corruption
    check_choice(args.get("front_padding"))
    _settle_scaling(args)
    args = merge(merge({}, {key: choices[0] for key, choices in searched.items()}), args)
    if own_file and (idle := unread(args, searched)):
        name = str(args.model_name)
        told = f"is searched (d_paras), but {name} does not read it; take it out"
        if trains_in_mmsa(name):
            raise _problems(name, [f"{key}: {told}" for key in idle])
        cls = get_model(name).config
        raise _problems(name, [f"{key}: {told}, or {meant(key, cls)}" for key in idle])
    return checked(args, drawn=drawn or bool(searched))


def _settle_scaling(args: EasyDict) -> None:
    """Of models in MMSA's loop the key is there only if it asks for something."""
    if "feature_scaling" in args:
        check_scaling(args.feature_scaling)
    if trains_in_mmsa(str(args.model_name)) and not wants_scaling(args):
        args.pop("feature_scaling", None)


def checked(args: EasyDict, *, drawn: bool = False) -> EasyDict:
    """A complete configuration, if it can be used; values that it leaves open are filled in.

    Args:
        args: The configuration; changed.
        drawn: Whether its values may be those of a search space of MMSA.

    Raises:
        ConfigError: With every problem in one message.
    """
    name = str(args.model_name)
    if trains_in_mmsa(name):
        problems = mmsa_config.problems(args, drawn=drawn)
    else:
        usual = mmsa_bridge.stock_datasets()[args.dataset_name]["unaligned"]
        problems = [
            f"{key}: {name} does not read it; leave it at {usual[key]!r} (given: {args[key]!r:.80})"
            for key in _UNREAD
            if args.get(key, usual[key]) != usual[key]
        ]
    if problems:
        raise _problems(name, problems)
    if is_registered(name):
        bound = get_model(name).config.from_args(args)
        args.update(bound.keys())
        if isinstance(bound, VariantConfig):
            bound.check(args)
    return args


def unread(args: Mapping[str, Any], keys: Collection[str]) -> list[str]:
    """Those of some keys that a configured model does not read, sorted; nested ones have a dot."""
    name = str(args["model_name"])
    if trains_in_mmsa(name):
        return mmsa_config.unread(args, keys)
    known = get_model(name).config.model_fields.keys() - set(_UNREAD)
    return sorted(key for key in keys if key.partition(".")[0] not in known)


def check_replaces(overrides: Mapping[str, Any] | None, configuration: Mapping[str, Any]) -> None:
    """Refuse overrides of a trained model's configuration that replace nothing in it.

    What its model is configured by may be added where the checkpoint lacks it.

    Raises:
        ConfigError: Naming a key that it does not have, with the closest.
    """
    known = {*configuration}
    with suppress(ConfigError):
        name, dataset = (str(configuration.get(key)) for key in ("model_name", "dataset_name"))
        known |= get_config_regression(name, dataset).keys()
    options = {*PLACES, *mmsa_config.OPTIONS, "d_paras"}
    given = {key.partition(".")[0] for key in _plain_overrides(overrides)}
    unknown = sorted(given - known - options)
    if unknown:
        raise ConfigError(
            f"config: the checkpoint's configuration has no key {unknown[0]!r:.80}; "
            + suggest(unknown[0], sorted(known))
        )


def _plain_overrides(overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """Overrides as plain values: paths as texts, numpy's numbers and arrays as Python's.

    Raises:
        ConfigError: If they are no dictionary with texts for keys.
    """
    if not isinstance(overrides, Mapping | None):
        raise ConfigError(f"config is {overrides!r:.80}; give a dictionary of keys and values.")
    check_depth(overrides, "config")
    return {key: _plain(value) for key, value in (overrides or {}).items() if _is_key(key)}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items() if _is_key(key)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise ConfigError(
        f"config: {value!r:.80} is a {type(value).__name__}; values are numbers, texts, true, "
        "false, null, and lists and dictionaries of these."
    )


def _is_key(key: object) -> bool:
    if isinstance(key, str):
        return True
    raise ConfigError(f"config: {key!r:.80} is no key; keys are texts.")


def merge(args: Mapping[str, Any], overrides: Mapping[str, Any]) -> EasyDict:
    """A configuration with some of its values replaced.

    Nested keys are reached by nested dictionaries, `{"infoenh": {"k": 4}}`, or by a dot,
    `{"infoenh.k": 4}`; the values beside them stay. None in place of a nested dictionary turns off
    what it configures.

    Returns:
        A copy.
    """
    merged: dict[str, Any] = copy.deepcopy(dict(args))
    for path, value in overrides.items():
        key, _, rest = path.partition(".")
        given = {rest: value} if rest else value
        if isinstance(given, Mapping):
            below = merged.get(key)
            given = merge(below if isinstance(below, Mapping) else {}, given)
        merged[key] = given
    return EasyDict(merged)


def _relative_feature_path(args: EasyDict) -> str:
    """The feature file below the data root, as MMSA's files name it."""
    return "/".join(Path(args.featurePath).parts[-3:])  # <DATA SET>/Processed/<file>


def identity_config(args: Any) -> dict[str, Any]:
    """The part of a configuration that decides the numbers: plain JSON, without places."""
    plain = {key: value for key, value in dict(args).items() if key not in PLACES}
    for key in mmsa_config.OPTIONS:
        if plain.get(key) is None:
            plain.pop(key, None)  # not every model's configuration has the key
    return dict(json.loads(json.dumps(plain, default=str)))


def _bind(cls: type[_Config], values: dict[str, Any], name: str) -> _Config:
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise _problems(name, explain(error, cls)) from None


def _problems(name: str, lines: list[str]) -> ConfigError:
    return ConfigError(
        f"configuration of {name!r} has {len(lines)} problem(s):\n  " + "\n  ".join(lines)
    )
