"""Multiply-adds and parameters of a model on one sample, by module, and DashFusion's Table V.

One multiply-add (MAdd) is half a FLOP as `torch.utils.flop_counter` counts them. It counts matrix
products: linear layers and both products of attention, QK^T and AV; convolutions and recurrent
layers too. Softmax, normalisation, activations, sums and embedding look-ups count nothing. This
package's models are built and run on fake tensors. The code of MMSA's models looks at values, so
these run on zeros that take no memory, called as MMSA's evaluation calls them. Nothing is
downloaded or drawn from a random generator.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from MMSA_ext import mmsa_bridge, mmsa_files, text_encoders
from MMSA_ext.config import mmsa_keys
from MMSA_ext.config.resolve import resolve
from MMSA_ext.data.feature_set import FeatureSplit
from MMSA_ext.datasets import SHIPPED, get_dataset
from MMSA_ext.errors import ConfigError
from MMSA_ext.models.dashfusion import DashFusionConfig
from MMSA_ext.registry import get_model, is_registered, trains_in_mmsa
from MMSA_ext.reporting.render import Fact, table_of, to_text

# Multiply-adds in millions as Table V prints them (CH-SIMS, one video).
PAPER_TABLE_V: dict[str, int] = {"concat": 0, "concat_sa": 324, "ca": 73, "bf": 162, "hbf": 145}
# p of the first fusion layer in Fig. 4.
PAPER_BOTTLENECKS = (4, 8, 16, 32, 64)

_LABELS = {"concat": "Concat", "concat_sa": "Concat&SA", "ca": "CA", "bf": "BF", "hbf": "HBF"}
# Their shape is that of transformers' BertConfig(), so it is known without the files.
_BERT_BASE_VOCABULARIES = {"bert-base-uncased": 30522, "bert-base-chinese": 21128}
# Stands in where only fusion is read: its cost depends on the text's length, not on its encoder.
_SMALL_ENCODER = {
    "model_type": "bert",
    "vocab_size": 8,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "max_position_embeddings": 1 << 20,
}
# Wide feed-forward networks that bring Concat&SA to the printed number.
_WIDE = 512
# Frames include the class token here, and a head is d / heads wide.
_CLOSEST_READING = {"reading.alignment_head_dim": 16, "seq_lens": [39, 399, 54]}


@dataclass(frozen=True)
class ModuleCost:
    """Multiply-adds of one module on one sample, and its number of parameters."""

    name: str
    madds: int
    parameters: int


@dataclass(frozen=True)
class Complexity:
    """Cost of a model on one sample.

    Attributes:
        model: Its name.
        dataset: The data set's.
        lengths: Tokens of text, frames of audio and of vision; all valid.
        frame_dims: Widths of an audio and of a vision frame.
        text_encoder: What encodes the text.
        rows: Cost by direct submodule; what stands outside of them is the row `outside modules`.
    """

    model: str
    dataset: str
    lengths: tuple[int, int, int]
    frame_dims: tuple[int, int]
    text_encoder: str
    rows: tuple[ModuleCost, ...]

    @property
    def total(self) -> ModuleCost:
        """Cost of the whole model."""
        return ModuleCost(
            "total", sum(row.madds for row in self.rows), sum(row.parameters for row in self.rows)
        )

    def module(self, name: str) -> ModuleCost:
        """Cost of one module; zero where the model has no such module."""
        return next((row for row in self.rows if row.name == name), ModuleCost(name, 0, 0))


@dataclass(frozen=True)
class FusionCost:
    """Cost of a fusion mechanism on one sample, without encoders and head.

    Attributes:
        name: Label of the mechanism.
        fusion: Multiply-adds of the fusion alone.
        alignment: Multiply-adds of temporal alignment, which comes before it.
        paper: Multiply-adds in millions as printed in Table V, None where it has no such row.
    """

    name: str
    fusion: int
    alignment: int
    paper: int | None = None

    @property
    def aligned(self) -> int:
        """Multiply-adds of temporal alignment and fusion."""
        return self.fusion + self.alignment


def measure(
    model_name: str,
    dataset: str,
    text_length: int | None = None,
    overrides: dict[str, Any] | None = None,
) -> Complexity:
    """Count multiply-adds and parameters of a model on one sample of a data set's dimensions.

    Args:
        model_name: Any model, any case.
        dataset: A data set that is known, any case.
        text_length: Tokens of the sample; None is the data set's `seq_lens`, which gives the frames
            of audio and vision in any case.
        overrides: Configuration keys, as for `MMSA_run(config=...)`. For `bert-base-uncased` and
            `bert-base-chinese` no file is read; of another `pretrained` the `config.json` is.

    Returns:
        Cost by module, at evaluation.

    Raises:
        ConfigError: If the text length does not fit the text encoder, or the configuration has
            problems.
        TextEncoderError: If the configuration of another `pretrained` cannot be read.
    """
    args = resolve(model_name, dataset, "", overrides)
    _check_shapes(dataset, overrides or {})
    lengths = _lengths(args, text_length, overrides or {})
    encoder = _encoder_name(args)
    args.update(_without_iteration(args))
    if trains_in_mmsa(args.model_name):
        model, madds = _count_in_mmsa(args, lengths)
    else:
        args.update(_without_weights(args))
        with FakeTensorMode():
            model = get_model(args.model_name).build(args).eval()
            _check_positions(model, lengths[0])
            madds = _count(model, *_sample(lengths, args.feature_dims[1:]))
    frame_dims = (args.feature_dims[1], args.feature_dims[2])
    return Complexity(
        args.model_name, args.dataset_name, lengths, frame_dims, encoder, _rows(model, madds)
    )


def _lengths(
    args: Any, text_length: int | None, overrides: Mapping[str, Any]
) -> tuple[int, int, int]:
    """Tokens of text, frames of audio and of vision."""
    text, audio, vision = args.seq_lens
    found = get_dataset(args.dataset_name)
    known = found.seq_lens or SHIPPED[found.like].seq_lens
    aligned = trains_in_mmsa(args.model_name) and args.get("need_data_aligned")
    aligned = aligned and "aligned" in mmsa_files.facts(found)
    if known is not None and not aligned and "seq_lens" not in overrides:
        text, audio, vision = known  # MMSA's file has them in another order
    if text_length is not None and text_length < 1:
        raise ConfigError(f"text length {text_length}: give at least one token.")
    text = text if text_length is None else text_length
    return (text, text, text) if aligned else (text, audio, vision)


def measure_fusions(
    model_name: str,
    dataset: str,
    text_length: int | None = None,
    overrides: dict[str, Any] | None = None,
) -> tuple[FusionCost, ...]:
    """Table V: every fusion mechanism at the same feed-forward width, and a wide Concat&SA.

    Arguments and errors as for `measure`; the model must be a DashFusion. The printed numbers stand
    beside ours where the data set is theirs, CH-SIMS.
    """
    variants: list[tuple[str, str, dict[str, Any]]] = [
        (_LABELS[name], name, {}) for name in PAPER_TABLE_V
    ]
    variants.insert(2, (f"Concat&SA, ff {_WIDE}", "concat_sa", {"feed_forward_dim": _WIDE}))
    printed = PAPER_TABLE_V if dataset.lower() == "sims" else {}
    costs = []
    for label, name, more in variants:
        whole = {**(overrides or {}), "fusion": name, **more}
        cost = _fusion_cost(label, model_name, dataset, text_length, whole, printed.get(name))
        costs.append(cost)
    return tuple(costs)


def measure_bottlenecks(
    model_name: str,
    dataset: str,
    text_length: int | None = None,
    overrides: dict[str, Any] | None = None,
) -> tuple[FusionCost, ...]:
    """Fig. 4: HBF with p = 4 to 64 bottleneck tokens; a text shorter than p has no more tokens.

    Arguments and errors as for `measure`; the model must be a DashFusion.
    """
    costs = []
    for tokens in PAPER_BOTTLENECKS:
        whole = {**(overrides or {}), "fusion": "hbf", "bottleneck_tokens": tokens}
        costs.append(_fusion_cost(f"p = {tokens}", model_name, dataset, text_length, whole))
    return tuple(costs)


def measure_closest_reading() -> tuple[FusionCost, ...]:
    """Table V by the reading that comes closest to all its printed numbers.

    The released modules with temporal alignment counted, alignment heads d / heads wide, 39 tokens,
    400 and 55 frames including the class token, and a Concat&SA whose feed-forward networks are
    twice as wide as those of the others. Found by search, so single matches can be chance.
    """
    costs = []
    for name, printed in PAPER_TABLE_V.items():
        width = _WIDE if name == "concat_sa" else 256
        whole = {**_CLOSEST_READING, "fusion": name, "feed_forward_dim": width}
        label = _LABELS[name]
        costs.append(_fusion_cost(label, "dashfusion_released", "sims", None, whole, printed))
    return tuple(costs)


def report(
    model_name: str,
    dataset: str,
    text_length: int | None = None,
    overrides: dict[str, Any] | None = None,
) -> str:
    """Tables as text: cost by module and, for a DashFusion, Table V and Fig. 4's bottlenecks.

    Arguments and errors as for `measure`.
    """
    parts = [_module_report(measure(model_name, dataset, text_length, overrides))]
    name = model_name.lower()
    if is_registered(name) and issubclass(get_model(name).config, DashFusionConfig):
        parts.append(_fusion_report(measure_fusions(model_name, dataset, text_length, overrides)))
        parts.append(
            _bottleneck_report(measure_bottlenecks(model_name, dataset, text_length, overrides))
        )
        if dataset.lower() == "sims":
            parts.append(_closest_report(measure_closest_reading()))
    return "\n\n".join(parts)


def _check_shapes(dataset: str, overrides: Mapping[str, Any]) -> None:
    """Refuse to measure on shapes that only stand in."""
    found = get_dataset(dataset)
    for key in ("seq_lens", "feature_dims"):
        if getattr(found, key) is None and key not in overrides:
            raise ConfigError(
                f"complexity: {key} of data set {dataset!r} (text, audio, vision) is not known; "
                f"give it by --set {key}=[..., ..., ...]."
            )


def _encoder_name(args: Any) -> str:
    if args.get("text_encoder_config") is None:
        words = f"word vectors of {args.feature_dims[0]}"
        # Of MMSA's models that read no tokens some have the key all the same.
        reads = args.get("use_bert") or not trains_in_mmsa(args.model_name)
        return str(args.pretrained) if reads else words
    return f"{args.text_encoder_config.get('model_type', 'encoder')} of text_encoder_config"


def _without_weights(args: Any) -> dict[str, Any]:
    """Overrides that build the text encoder from its architecture alone."""
    if args.text_encoder_config is not None:
        return {}
    vocabulary = _BERT_BASE_VOCABULARIES.get(args.pretrained)
    if vocabulary is None:
        return {"random_init": True}
    return {"text_encoder_config": {"model_type": "bert", "vocab_size": vocabulary}}


def _without_iteration(args: Any) -> dict[str, Any]:
    """Overrides that need no values: Sinkhorn stops by them, and multiplies no matrices."""
    infoenh = args.get("infoenh")
    return {"infoenh": {**infoenh, "plan": "uniform"}} if infoenh else {}


def _check_positions(model: nn.Module, tokens: int) -> None:
    for module in model.modules():
        limit = getattr(getattr(module, "config", None), "max_position_embeddings", None)
        if limit is not None and tokens > limit:
            raise ConfigError(
                f"text length {tokens}: the text encoder has {limit} positions; give fewer tokens."
            )


def _sample(lengths: tuple[int, int, int], frame_dims: Sequence[int]) -> tuple[Tensor, ...]:
    """One sample without padding: text `(1, 3, T)`, audio `(1, A, d_a)`, vision `(1, V, d_v)`."""
    text, audio, vision = lengths
    return (
        torch.ones(1, 3, text),
        torch.ones(1, audio, frame_dims[0]),
        torch.ones(1, vision, frame_dims[1]),
    )


def _count(model: nn.Module, *sample: Any, **options: Any) -> dict[str, int]:
    """Multiply-adds by path of the module below the model; the model itself is the path ''."""
    counter = FlopCounterMode(display=False)
    # The counter follows modules by gradient hooks, which `no_grad` alone does not switch off.
    model.requires_grad_(False)
    # It has no formula for the fused attention of a CPU, and would count it as nothing.
    with sdpa_kernel(SDPBackend.MATH), counter:
        model(*sample, **options)
    counts = counter.get_flop_counts()
    madds = {path: sum(operations.values()) // 2 for path, operations in counts.items()}
    return _below(type(model).__name__, madds)


def _below(root: str, madds: Mapping[str, int]) -> dict[str, int]:
    """What counts for a module and its parts, by path below it."""
    return {
        path.removeprefix(root).removeprefix("."): count
        for path, count in madds.items()
        if path == root or path.startswith(f"{root}.")
    }


def _count_in_mmsa(args: Any, lengths: tuple[int, int, int]) -> tuple[nn.Module, dict[str, int]]:
    """A network of MMSA's inside its wrapper, and multiply-adds by path below it."""
    text_width, *frame_dims = args.feature_dims
    text, audio, vision = (value.numpy() for value in _sample(lengths, frame_dims))
    sample = FeatureSplit(
        name="test",
        ids=["sample"],
        raw_text=[""],
        text_bert=text,
        text=np.ones((1, lengths[0], text_width), np.float32),
        audio=audio,
        vision=vision,
        audio_lengths=np.array([lengths[1]]),
        vision_lengths=np.array([lengths[2]]),
        labels=dict.fromkeys("MTAV", np.zeros(1, np.float32)),
    )
    with _architecture_of(args) as pretrained, mmsa_keys.explained(args):
        complete = mmsa_bridge.complete_args(
            args | pretrained, device=torch.device("cpu"), model_save_path="none"
        )
        with warnings.catch_warnings(action="ignore"), mmsa_bridge.preserved_random_state():
            found = mmsa_bridge.outline(complete, sample)
            _check_positions(found.model, lengths[0])
            with torch.backends.mkldnn.flags(enabled=False):  # it has no formula for its LSTM
                madds = _count(found.model, *found.arguments, **found.options)
    return found.model.get_submodule("Model"), _below("Model", madds)


@contextmanager
def _architecture_of(args: Any) -> Iterator[dict[str, str]]:
    """`pretrained` as a folder with an architecture; for BERT-base there need be no files."""
    if "pretrained" not in args:
        yield {}
        return
    vocabulary = _BERT_BASE_VOCABULARIES.get(args.pretrained)
    if vocabulary is None:
        yield {"pretrained": text_encoders.resolve(args.pretrained)}
        return
    with tempfile.TemporaryDirectory(prefix="mmsa-ext-complexity-") as folder:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words += [f"word{number}" for number in range(vocabulary - len(words))]
        config = {"model_type": "bert", "vocab_size": vocabulary}
        Path(folder, "config.json").write_text(json.dumps(config))
        Path(folder, "vocab.txt").write_text("\n".join(words))
        yield {"pretrained": folder}


def _rows(model: nn.Module, madds: dict[str, int]) -> tuple[ModuleCost, ...]:
    children = dict(model.named_children())
    inside = {part for child in children.values() for part in child.modules() if part is not child}
    rows = [
        ModuleCost(name, _madds_of(name, child, madds), _parameters(child))
        for name, child in children.items()
        # Each once: a variant of Self-MM computes in front of a dropout what other modules are.
        if child not in inside and not isinstance(child, nn.Dropout)
    ]
    outside = ModuleCost(
        "outside modules",
        madds.get("", 0) - sum(row.madds for row in rows),
        _parameters(model) - sum(row.parameters for row in rows),
    )
    return (*rows, outside) if outside.madds or outside.parameters else tuple(rows)


def _madds_of(path: str, module: nn.Module, madds: dict[str, int]) -> int:
    """Multiply-adds of a module; of a container that is never called, those of its children."""
    if path in madds:
        return madds[path]
    return sum(_madds_of(f"{path}.{name}", child, madds) for name, child in module.named_children())


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _fusion_cost(
    label: str,
    model_name: str,
    dataset: str,
    text_length: int | None,
    overrides: Mapping[str, Any],
    printed: int | None = None,
) -> FusionCost:
    """Measure a model whose text encoder does not matter."""
    whole = {**overrides, "text_encoder_config": _SMALL_ENCODER}
    cost = measure(model_name, dataset, text_length, whole)
    alignment = cost.module("temporal_alignment").madds
    return FusionCost(label, cost.module("fusion").madds, alignment, printed)


def _module_report(cost: Complexity) -> str:
    text, audio, vision = cost.lengths
    heading = (
        f"{cost.model} on {cost.dataset}, one sample without padding: {text} text tokens "
        f"({cost.text_encoder}), {audio} audio frames of {cost.frame_dims[0]}, "
        f"{vision} vision frames of {cost.frame_dims[1]}. "
        "Counted are the multiply-adds of matrix products: linear layers and attention (QK^T "
        "and AV), one multiply-add being two FLOPs; not softmax, normalisation, activations, "
        "sums and embedding look-ups."
    )
    rows = [
        (row.name.replace("_", " "), _millions(row.madds, 2), _millions(row.parameters, 3))
        for row in (*cost.rows, cost.total)
    ]
    return to_text(table_of(("module", "MAdds (M)", "parameters (M)"), rows, heading))


def _fusion_report(costs: Sequence[FusionCost]) -> str:
    by_name = {cost.name: cost for cost in costs}
    hbf, sa = by_name["HBF"], by_name["Concat&SA"]
    said = (
        f"costs {hbf.fusion / sa.fusion:.2f} of Concat&SA, with temporal alignment "
        f"{hbf.aligned / sa.aligned:.2f}"
    )
    if hbf.paper is not None:
        said += "; the paper prints 145/324 = 0.45"
    return _fusion_table(
        "Table V: multiply-adds (M) of the fusion mechanisms at the same feed-forward width, "
        "except where another is named; encoders and head are not counted.",
        costs,
        Fact("HBF", said),
        *([_not_reproduced(costs)] if hbf.paper is not None else []),
    )


def _not_reproduced(costs: Sequence[FusionCost]) -> Fact:
    by_name = {cost.name: cost for cost in costs}
    return Fact(
        "not reproduced",
        "the distance from HBF to BF: not halving the tokens costs "
        f"{by_name['BF'].fusion / by_name['HBF'].fusion - 1:+.1%} of the fusion; the paper prints "
        "+11.7% (145 to 162)",
    )


def _bottleneck_report(costs: Sequence[FusionCost]) -> str:
    caption = (
        "Fig. 4: multiply-adds (M) of HBF by bottleneck tokens p of its first layer; p beyond "
        "the text's length keeps every token."
    )
    rows = [(c.name, _millions(c.fusion), _millions(c.aligned)) for c in costs]
    return to_text(table_of(("tokens", "alone", "with alignment"), rows, caption))


def _closest_report(costs: Sequence[FusionCost]) -> str:
    return _fusion_table(
        "Closest reading of the printed numbers: the released modules, alignment heads 16 "
        "wide, 39 tokens, 400 and 55 frames with the class token, and feed-forward width 512 "
        "in Concat&SA against 256 elsewhere. It was found by search, so a single match can be "
        "chance; the printed 0 of Concat leaves out the alignment that the others include.",
        costs,
        _not_reproduced(costs),
    )


def _fusion_table(caption: str, costs: Sequence[FusionCost], *notes: Fact) -> str:
    heads = ["fusion", "alone", "with alignment"]
    rows = [[c.name, _millions(c.fusion), _millions(c.aligned)] for c in costs]
    if any(cost.paper is not None for cost in costs):
        heads += ["paper", "alone/paper", "with alignment/paper"]
        for row, cost in zip(rows, costs, strict=True):
            row.append("-" if cost.paper is None else str(cost.paper))
            row += [_ratio(cost.fusion, cost.paper), _ratio(cost.aligned, cost.paper)]
    return to_text(table_of(heads, rows, caption, notes=notes))


def _ratio(madds: int, printed: int | None) -> str:
    return f"{madds / (printed * 1e6):.2f}" if printed else "-"


def _millions(value: int, digits: int = 1) -> str:
    return f"{value / 1e6:.{digits}f}"
