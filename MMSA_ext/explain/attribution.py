"""What a prediction is made of: integrated gradients over words and frames.

InfoEnh shows heat maps by Grad-CAM (its Fig. 6), which weights the maps of a convolution; these
models have none. Integrated gradients (Sundararajan et al., 2017; Captum's implementation) need
only gradients and are complete: the contributions of all words and frames add up to the difference
between the prediction and that for a baseline input. How well they do is measured for every sample.

Completeness needs a prediction that is continuous along the way from the baseline to the sample.
InfoEnh selects tokens and closes gates, so its prediction jumps on that way, and what the jumps
contribute belongs to no single input. So its choices are held at those for the sample: what is
attributed is the prediction given the tokens and gates that InfoEnh chose.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from captum.attr import IntegratedGradients  # type: ignore[import-untyped]
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from MMSA_ext import text_encoders
from MMSA_ext.data.features import FeatureSet
from MMSA_ext.errors import CheckpointError
from MMSA_ext.explain.trained_model import Call, TrainedModel, prediction
from MMSA_ext.explain.words import Words, words_of
from MMSA_ext.models.infoenh.bottleneck import FeatureBottleneck, PooledTokens
from MMSA_ext.names import MODALITIES

Baseline = Literal["mean", "zero"]

_FORWARD_ROWS = 64  # samples times steps computed at once


@dataclass(frozen=True)
class Attribution:
    """Contributions to the predictions of some samples.

    Attributes:
        parts: One row a sample, modality and word or frame: `id`, `modality`, `position` (from 0),
            `unit` (the word, or the number of the frame), `attribution`, in the label's unit.
        samples: One row a sample: `id`, `split`, `text`, `label`, `prediction`, `baseline`
            (prediction for the baseline input), `text_sum`, `audio_sum`, `vision_sum`
            (contributions of whole modalities), `gap` (prediction - baseline - all
            contributions), `steps`, `baseline_frames` and `selection` (`held` where InfoEnh's
            choices were held at those for the sample, else `free`).
    """

    parts: pd.DataFrame
    samples: pd.DataFrame


def attribute(
    trained: TrainedModel,
    *,
    steps: int = 64,
    baseline: Baseline = "mean",
    hold_selection: bool = True,
) -> Attribution:
    """Attribute predictions to words and to frames of audio and vision.

    All steps and samples are computed in batches. The baseline of a text has the embedding of the
    padding token in place of every word, the special tokens stay. The word pieces of a word, and
    the features of a frame, are added up.

    Args:
        trained: The model and the samples. It must return its prediction under MMSA's key `M`, and
            read text as token ids or as features.
        steps: Points of the Gauss-Legendre rule between baseline and sample.
        baseline: Frames of the baseline: `mean` is the mean valid frame of the feature file's
            training split (of all splits where it has none), so that a frame counts by how it
            differs from the usual one; `zero` is the file's padding, right where features are
            normalised.
        hold_selection: Hold InfoEnh's choices of tokens and gates at those for the sample, in the
            baseline too. False lets them change on the way; see the gap then.

    Returns:
        Contributions, and per sample what they add up to.

    Raises:
        CheckpointError: The model's inputs or text encoder cannot be attributed to.
        TextEncoderError: The tokenizer, which gives the words, cannot be loaded.
    """
    reader = _reader(trained)
    frames = _baseline_frames(trained.features, baseline)
    tokenizer = text_encoders.load_tokenizer(trained.args.pretrained) if reader.embedding else None
    parts: list[pd.DataFrame] = []
    samples: list[pd.DataFrame] = []
    with _differentiable(trained.network):
        for call in trained.calls:
            held = HeldSelection(trained.network, call) if hold_selection else None
            given = _CallAttribution(trained, reader, call, frames, tokenizer, held)
            contributions, ends = given.compute(steps)
            parts += given.part_tables(contributions)
            samples.append(given.sample_table(contributions, ends))
    table = pd.concat(samples, ignore_index=True)
    return Attribution(
        pd.concat(parts, ignore_index=True), table.assign(steps=steps, baseline_frames=baseline)
    )


class _Reader(NamedTuple):
    """How a model reads text.

    Attributes:
        embedding: Layer that embeds token ids; None for a model that reads features.
        padding: Token id of the baseline.
    """

    embedding: nn.Module | None
    padding: int = 0


def _reader(trained: TrainedModel) -> _Reader:
    first = trained.calls[0].inputs
    frames = map(_frames, first[1:3])
    if not all(isinstance(x, Tensor) and x.dim() == 3 for x in (first[0], *frames)):
        raise CheckpointError(
            f"{trained.name} is called with inputs of its own kind, to which nothing can be "
            "attributed; choose another model, such as self_mm, misa, mmim or dashfusion."
        )
    encoders: list[PreTrainedModel] = []
    for part in trained.network.modules():  # the outermost ones come first
        inside = any(part is inner for outer in encoders for inner in outer.modules())
        if isinstance(part, PreTrainedModel) and not inside:
            encoders.append(part)
    if not encoders:
        return _Reader(None)
    if len(encoders) > 1:
        raise CheckpointError(
            f"{trained.name} has {len(encoders)} text encoders; attribution to words reads one."
        )
    return _Reader(encoders[0].get_input_embeddings(), encoders[0].config.pad_token_id or 0)


@contextmanager
def _differentiable(network: nn.Module) -> Iterator[None]:
    """Inside, the model has a gradient to its inputs and reads each text in one pass.

    MMSA's text encoder without fine-tuning runs without gradient; ours reads texts in groups of
    similar length. Both are switches that change no result. cuDNN has no backward pass for
    recurrent layers in evaluation mode.
    """
    with ExitStack() as stack:
        for module in network.modules():
            for name, value in (("use_finetune", True), ("length_groups", 1)):
                if name in vars(module):
                    stack.callback(setattr, module, name, getattr(module, name))
                    setattr(module, name, value)
        for parameter in network.parameters():
            stack.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(False)
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def _baseline_frames(features: FeatureSet, baseline: Baseline) -> dict[str, Tensor]:
    """The frame of the baseline, as the model is given it, `(d,)` float32 by modality."""
    splits = features.splits
    used = [splits["train"]] if "train" in splits else list(splits.values())
    frames = {}
    for name in MODALITIES[1:]:
        width = getattr(used[0], name).shape[2]
        total, count = np.zeros(width), 0
        for split in used if baseline == "mean" else ():
            values, lengths = split.frames(name)
            valid = np.arange(values.shape[1])[None] < lengths[:, None]
            total += values[valid].sum(axis=0, dtype=np.float64)
            count += int(valid.sum())
        mean = total / max(count, 1)
        if used[0].scaling is not None and baseline == "mean":
            mean = getattr(used[0].scaling, name).apply(mean[None, None], np.ones(1))[0, 0]
        frames[name] = torch.from_numpy(mean).float()
    return frames


class HeldSelection:
    """What InfoEnh's bottlenecks choose for the samples of a call, to be held for other contents.

    Falsy where there is nothing to hold: no InfoEnh, or one whose rows are no tokens.

    Args:
        network: The model.
        call: A forward pass.
    """

    def __init__(self, network: nn.Module, call: Call) -> None:
        self._chosen: dict[FeatureBottleneck, tuple[Tensor, Tensor | None]] = {}
        parts = [
            part
            for part in network.modules()
            if isinstance(part, FeatureBottleneck) and part.config.pool != "kmax_per_channel"
        ]
        with ExitStack() as stack, torch.no_grad():
            for part in parts:
                stack.enter_context(part.register_forward_hook(self._keep))
            if parts:
                network(*call.inputs)

    def __bool__(self) -> bool:
        return bool(self._chosen)

    def _keep(self, part: FeatureBottleneck, given: Any, output: PooledTokens) -> None:
        opened = None
        if part.config.bottleneck:
            opened = part._gates(output.embedding) > part.config.gate_threshold
        self._chosen[part] = (output.selected, opened)

    @contextmanager
    def of(self, rows: Tensor) -> Iterator[None]:
        """Inside, a forward pass on the samples `rows` (b,) of the call makes the same choices."""
        with ExitStack() as stack:
            for part, (selected, opened) in self._chosen.items():
                at = rows.to(selected.device)
                gates = None if opened is None else opened[at]
                # An entry in the instance's own dictionary is found before the class's method.
                vars(part)["forward"] = partial(_held_forward, part, selected[at], gates)
                stack.callback(vars(part).pop, "forward")
            yield


def _held_forward(
    part: FeatureBottleneck, selected: Tensor, opened: Tensor | None, sequence: Tensor, mask: Tensor
) -> PooledTokens:
    """`FeatureBottleneck.forward` with the tokens `(B, k)` and gates `(B, k, d)` chosen before."""
    tokens = part.project(sequence)
    kept = selected >= 0
    index = selected.clamp(min=0)
    e = tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
    if part.config.pool == "token_score":
        e = e * part.scorer(tokens).squeeze(-1).gather(1, index).sigmoid().unsqueeze(-1)
    e = e.masked_fill(~kept.unsqueeze(-1), 0.0)
    if opened is None:
        return PooledTokens(e, e, kept, selected)
    return PooledTokens(e, e * part._gates(e).masked_fill(~opened, 0.0), kept, selected)


class _CallAttribution:
    """The attribution of one forward pass' samples."""

    def __init__(
        self,
        trained: TrainedModel,
        reader: _Reader,
        call: Call,
        frames: dict[str, Tensor],
        tokenizer: Any,
        held: HeldSelection | None,
    ) -> None:
        self.trained, self.reader, self.call, self.held = trained, reader, call, held
        self.samples = trained.samples.iloc[list(call.rows)]
        self.text: Tensor = call.inputs[0]
        own = {m: _frames(call.inputs[i]) for i, m in enumerate(MODALITIES) if i}
        self.words: list[Words] | None = None
        if reader.embedding is not None:
            ids = self.text.cpu().numpy()
            self.words = [words_of(tokenizer, sample) for sample in ids]
        texts = self._texts()
        self.given: tuple[Tensor, ...] = (texts[0], own["audio"], own["vision"])
        self.baselines: tuple[Tensor, ...] = (
            texts[1],
            *(
                torch.where(self._valid(m, own[m]), frames[m].to(own[m]), own[m])
                for m in MODALITIES[1:]
            ),
        )

    def _valid(self, modality: str, frames: Tensor) -> Tensor:
        """`(B, L, 1)` bool: what is padding stays padding in the baseline."""
        lengths = torch.as_tensor(self.samples[f"{modality}_length"].to_numpy(copy=True))
        valid = torch.arange(frames.shape[1])[None] < lengths[:, None]
        return valid.unsqueeze(-1).to(frames.device)

    @torch.no_grad()
    def _texts(self) -> tuple[Tensor, Tensor]:
        """The text as the model embeds it, and its baseline, both `(B, L, d)`."""
        if self.reader.embedding is None or self.words is None:
            return self.text, torch.zeros_like(self.text)
        ids = self.text[:, 0].long()
        is_word = torch.zeros_like(ids, dtype=torch.bool)
        for row, words in enumerate(self.words):
            index = torch.from_numpy(words.index)
            is_word[row, : len(index)] = (index >= 0).to(ids.device)
        reference = ids.masked_fill(is_word, self.reader.padding)
        return self.reader.embedding(ids), self.reader.embedding(reference)

    def compute(self, steps: int) -> tuple[dict[str, NDArray[Any]], tuple[Tensor, Tensor]]:
        """Contributions `(B, L_m)` by modality, and the predictions for sample and baseline."""
        rows = torch.arange(self.call.count)
        gradients = IntegratedGradients(self._predict)
        found = gradients.attribute(
            self.given,
            baselines=self.baselines,
            additional_forward_args=(rows,),
            n_steps=steps,
            method="gausslegendre",
            internal_batch_size=max(_FORWARD_ROWS, self.call.count),
        )
        with torch.no_grad():
            given, base = (
                self._predict(text, audio, vision, rows)
                for text, audio, vision in (self.given, self.baselines)
            )
        summed = {
            m: part.sum(dim=-1).double().cpu().numpy()
            for m, part in zip(MODALITIES, found, strict=True)
        }
        return summed, (given, base)

    def _predict(self, text: Tensor, audio: Tensor, vision: Tensor, rows: Tensor) -> Tensor:
        """Predictions `(b,)` of the samples `rows` of the call with other contents."""
        own = self.call.take(rows)
        inputs = (own[0], _with_frames(own[1], audio), _with_frames(own[2], vision), *own[3:])
        with ExitStack() as stack:
            if self.reader.embedding is None:
                inputs = (text, *inputs[1:])
            else:
                hook = _answer(text, self.trained)
                stack.enter_context(self.reader.embedding.register_forward_hook(hook))
            if self.held is not None:
                stack.enter_context(self.held.of(rows))
            predicted = prediction(self.trained.network(*inputs), self.trained.name)
        # A modality that the model does not read still has a gradient: zero.
        return predicted + 0 * sum(x.flatten(1).sum(dim=1) for x in (text, audio, vision))

    def part_tables(self, contributions: dict[str, NDArray[Any]]) -> list[pd.DataFrame]:
        """Rows of `Attribution.parts`."""
        return [
            self._parts(position, sample, m, contributions[m][position])
            for position, (_, sample) in enumerate(self.samples.iterrows())
            for m in MODALITIES
        ]

    def _parts(
        self, position: int, sample: pd.Series, modality: str, values: NDArray[Any]
    ) -> pd.DataFrame:
        if modality == "text" and self.words is not None:
            words = self.words[position]
            of_word = words.index >= 0
            values = np.bincount(
                words.index[of_word], values[: len(of_word)][of_word], len(words.words)
            )
            units = list(words.words)
        else:
            length = self._length(position, sample, modality)
            values, units = values[:length], [str(i) for i in range(min(length, len(values)))]
        return pd.DataFrame(
            {
                "id": sample["id"],
                "modality": modality,
                "position": np.arange(len(values)),
                "unit": units,
                "attribution": values,
            }
        )

    def _length(self, position: int, sample: pd.Series, modality: str) -> int:
        if modality != "text":
            return int(sample[f"{modality}_length"])
        nonzero = self.text[position].ne(0).any(dim=-1).nonzero()
        return int(nonzero.max()) + 1 if len(nonzero) else 1

    def sample_table(
        self, contributions: dict[str, NDArray[Any]], ends: tuple[Tensor, Tensor]
    ) -> pd.DataFrame:
        """Rows of `Attribution.samples`."""
        given, base = (end.double().cpu().numpy() for end in ends)
        sums = {m: values.sum(axis=1) for m, values in contributions.items()}
        table = self.samples[["id", "split", "text", "label"]].assign(
            prediction=given,
            baseline=base,
            **{f"{m}_sum": total for m, total in sums.items()},
            gap=given - base - sum(sums.values()),
        )
        return table.assign(selection="held" if self.held is not None and self.held else "free")


def _frames(value: Any) -> Tensor:
    frames: Tensor = value[0] if isinstance(value, tuple | list) else value
    return frames


def _with_frames(value: Any, frames: Tensor) -> Any:
    return (frames, *value[1:]) if isinstance(value, tuple | list) else frames


def _answer(embedded: Tensor, trained: TrainedModel) -> Any:
    """A hook that puts given embeddings in place of what the embedding layer returned."""

    def replace(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        if output.shape != embedded.shape:
            raise CheckpointError(
                f"{trained.name} does not embed a text in one pass, so nothing can be attributed "
                "to its words."
            )
        return embedded

    return replace
