"""Typed keys of configurations: what a model may be told, and of which type.

Keys that belong to MMSA's data loading stand in `MMSAKeys`, those of the training loop in
`RunConfig`; models add their own by inheritance. Variants of MMSA's models add a `VariantConfig` to
the host's keys. Knows no file and no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from MMSA_ext.datasets import Dataset, dataset_of
from MMSA_ext.errors import ConfigError
from MMSA_ext.names import MODALITIES, MODALITY_FILES, Modality
from MMSA_ext.validation import explain

# What to do with zeros in front of the frames, and what scale frames are on; see `data`.
FrontPadding = Literal["turn", "keep"]
Scaling = Literal["standardise", "none"]

# Where a run puts things and on what it runs: not part of what a run computes.
PLACES = frozenset(
    {"featurePath", "custom_feature", *MODALITY_FILES, "model_save_path"}
    | {"device", "cur_seed", "num_workers", "train_mode"}
)
# What the feature file decides; what a configuration says of it is taken over from there.
FACTS = frozenset({"featurePath", "feature_dims", "seq_lens", "train_samples"})
# Of `PLACES`, what is an argument of `MMSA_run` and would be overruled in `config=`.
ARGUMENTS = PLACES - {"featurePath", "train_mode"}
# Options of this package's trainer that change how a step is computed. They came later: at their
# defaults they are no part of a run's name, which stays what it was.
STEP_OPTIONS = frozenset({"precision", "compile", "accumulate_steps", "max_grad_norm"})
# Keys of `MMSAKeys` that no model of this package reads.
UNREAD = ("num_classes", "language", "missing_rate", "missing_seed")


class CorruptionConfig(BaseModel):
    """What is taken from the data.

    Attributes:
        remove: Modalities that are lost completely, one or several; not all three.
        drop_rate: Probability with which each valid frame or token is lost, in [0, 1).
        noise: Standard deviation of Gaussian noise on each valid frame, in units of each feature's
            standard deviation over the valid frames of the training split. Token ids have none.
        modalities: What `drop_rate` and `noise` touch; None is all three.
        at: `test`: the test split alone, so that training and selection see clean data. `all`:
            training, validation and test, the same loss in every epoch.
        seed: Seed of the losses and the noise; the run's own seed has no part in it.
        unknown_token: Token id of a lost token; None is the encoder's own [UNK], and 100, as in
            MMSA, where the encoder has no tokenizer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    remove: tuple[Modality, ...] = ()
    drop_rate: float = Field(0.0, ge=0, lt=1)
    noise: float = Field(0.0, ge=0)
    modalities: tuple[Modality, ...] | None = None
    at: Literal["test", "all"] = "test"
    seed: int = Field(0, ge=0)
    unknown_token: int | None = Field(None, ge=0)

    @field_validator("remove", "modalities", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("remove", "modalities")
    @classmethod
    def _in_one_order(cls, value: tuple[Modality, ...] | None) -> tuple[Modality, ...] | None:
        return None if value is None else tuple(sorted(set(value), key=MODALITIES.index))

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.remove == MODALITIES:
            raise ValueError("remove names all three modalities, which leaves nothing to read")
        if self.modalities == ():
            raise ValueError("modalities is empty; name some of them, or leave it out for all")
        return self

    @property
    def changes_nothing(self) -> bool:
        """Whether the data stay as they are."""
        return not self.remove and self.drop_rate == 0 and self.noise == 0

    def touches(self, modality: str) -> bool:
        """Whether `drop_rate` and `noise` apply to `modality`."""
        return self.modalities is None or modality in self.modalities


class MMSAKeys(BaseModel):
    """Keys that MMSA's configuration files and its `MMSA_run` put into every configuration.

    Attributes:
        model_name: Name of the model.
        dataset_name: Name of the data set.
        dataset_definition: What it is, see `datasets.Dataset`; None of a shipped one.
        featurePath: Feature file, where no other is given.
        seq_lens: Longest text, audio and vision; the file decides.
        feature_dims: Features of a word, an audio frame and a vision frame; the file decides.
        train_samples: Size of the training split; the file decides.
        num_classes: Of MMSA's classification, which is not run here.
        language: Of the transcripts.
        missing_rate, missing_seed: What MMSA's tfr_net removes from text, audio and vision, and
            the seeds of that.
        need_data_aligned: Whether the model reads a file in which words and frames are aligned.
        need_model_aligned: Whether MMSA's model aligns frames to words itself.
        need_normalized: Whether MMSA averages audio and vision over time first.
        use_bert: Whether the model reads token ids (`text_bert`), not word vectors (`text`).
        front_padding: What to do with zeros in front of the frames, see `data.front_padding`; None
            refuses a file that is padded so. MMSA does not know this key; its models accept it too.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    model_name: str
    dataset_name: str
    dataset_definition: dict[str, Any] | None = None
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

    @model_validator(mode="after")
    def _data_set_is_known(self) -> Self:
        if getattr(self, "contrast_classes", "") == "borders" and self.data_set.classes is None:
            raise ValueError(
                f"contrast_classes: data set {self.dataset_name!r} has no borders between classes; "
                "write 'exact' or 'rounded', or define them (classes, docs/data.md)"
            )
        return self

    @property
    def data_set(self) -> Dataset:
        """The data set, whose name or definition has been checked."""
        return dataset_of(self.dataset_name, self.dataset_definition)

    def class_borders(self, rule: str) -> tuple[float, ...]:
        """The borders between classes of labels, if retrieval asks for them."""
        return self.data_set.classes or () if rule == "borders" else ()


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
        precision: In what training computes: `fp32`, or `bf16` or `fp16` for matrix products
            (autocast; fp16 scales the loss). Weights, head, losses and evaluation stay in float32.
        compile: Compile the training step by torch.compile: true or `inductor`; `eager` and
            `aot_eager` only trace it. Dropout then draws other masks.
        accumulate_steps: Batches whose gradients are averaged for one update, as if they were one
            batch; but what is contrasted within a batch stays within it.
        max_grad_norm: The gradient of all parameters together is scaled down to this norm; None
            leaves it.
    """

    later: ClassVar[frozenset[str]] = STEP_OPTIONS

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
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: Literal["off", "inductor", "aot_eager", "eager"] = "off"
    accumulate_steps: int = Field(1, ge=1)
    max_grad_norm: float | None = Field(None, gt=0)

    @field_validator("compile", mode="before")
    @classmethod
    def _compiles_by_default_with(cls, value: Any) -> Any:
        return {True: "inductor", False: "off"}[value] if isinstance(value, bool) else value

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

    @property
    def rates(self) -> tuple[float, float | None]:
        """Peak learning rates: of the pretrained encoder, and of all else; None if it is one."""
        return self.learning_rate, self.new_layers_learning_rate

    def keys(self) -> dict[str, Any]:
        """What the run's configuration gets."""
        return self.model_dump()

    @property
    def unnamed(self) -> frozenset[str]:
        """Keys that are no part of a run's name.

        Those of `later` that have their default, and what decides only the speed.
        """
        fields = type(self).model_fields
        found = {key for key in self.later if getattr(self, key) == fields[key].default}
        return frozenset(found | ({"eval_batch_size"} if self.masks_padding else set()))

    @property
    def reads(self) -> tuple[str, ...]:
        """Modalities that the model reads, of `names.MODALITIES`.

        Others are not handed to it, so that they change nothing and may be absent.
        """
        return MODALITIES

    @property
    def masks_padding(self) -> bool:
        """Whether the model reads no padding, so that `eval_batch_size` decides only its speed.

        A key that decides only the speed is no part of a run's name. False is the safe answer.
        """
        return False


class FineTuneConfig(RunConfig):
    """Keys of models that are trained otherwise than by linear decay.

    Attributes:
        schedule: What follows the linear warm-up: `linear` decay to zero or half a `cosine` at
            `num_epochs`, or the `constant` peak.
        schedule_unit: Whether the rate moves with every `step`, or stays through an `epoch`.
        decay_all: Decay biases and normalisation weights too.
        optimizer: `adamw`, or `adam`, which adds the weight decay to the gradient.
        adam_epsilon: Of either, what is added to the denominator.
    """

    later: ClassVar[frozenset[str]] = STEP_OPTIONS - {"max_grad_norm"}

    schedule: Literal["linear", "constant", "cosine"] = "linear"
    schedule_unit: Literal["step", "epoch"] = "step"
    decay_all: bool = False
    optimizer: Literal["adamw", "adam"] = "adamw"
    adam_epsilon: float = Field(1e-8, gt=0)


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


def _bind(cls: type[_Config], values: dict[str, Any], name: str) -> _Config:
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise problems(name, explain(error, cls)) from None


def problems(name: str, lines: list[str]) -> ConfigError:
    """Everything that is wrong with the configuration of a model, as one error."""
    return ConfigError(
        f"configuration of {name!r} has {len(lines)} problem(s):\n  " + "\n  ".join(lines)
    )
