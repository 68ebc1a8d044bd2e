"""Does InfoEnh do what it is for: a study on generated data whose truth is known.

A small model, InfoEnh with one readout a modality and a linear head, learns the label of generated
data (`data.synthetic`). Audio and vision show one short cue each among frames of noise, the text
has three words that matter among neutral ones, and each cue belongs to one of these words, which it
follows or precedes. Then it is measured on the test split what was selected and transported; see
docs/models/infoenh.md.

    python studies/planted.py --out results/infoenh_study

Writes one CSV a measurement, and the figure as PNG and PDF.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from planted_figure import infoenh_study
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from MMSA_ext.data import synthetic
from MMSA_ext.explain.embeddings import discrepancy, pairwise_distance
from MMSA_ext.models.infoenh import InfoEnh, InfoEnhConfig, InfoEnhOutput, TokenReadout
from MMSA_ext.models.infoenh.alignment import align
from MMSA_ext.models.optimal_transport import cosine_cost, transport_cost
from MMSA_ext.names import MODALITIES
from MMSA_ext.reporting.figures import save

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no normalisation": {"normalise": False},
    "token_norm": {"infoenh": InfoEnhConfig(pool="token_norm")},
}
ORDERED_PAIRS = list(itertools.permutations(MODALITIES, 2))
# Other ways to move the same filtered tokens, beside the plan that was learned with.
PLANS: dict[str, dict[str, Any]] = {
    "sinkhorn": {},
    "uniform": {"plan": "uniform"},
    "shuffled": {"plan": "shuffled"},
    "push-forward": {"transport": "source_pushforward"},
}


@dataclass(frozen=True)
class StudyConfig:
    """What the study trains.

    Attributes:
        infoenh: InfoEnh; its k must leave a choice.
        dataset: Whose label grid and cues are generated.
        lengths: Time steps of text, audio and vision; those of the published figures, which are
            MMSA's `seq_lens` of mosi and not the official file's.
        sizes: Samples to train and to measure on.
        dims: Widths of text, audio and vision.
        hidden: Width of the readouts.
        normalise: Whether the readouts normalise tokens, see `TokenReadout`.
        epochs: Passes over the training samples.
        batch_size: Samples a step.
        learning_rate: Of Adam.
        data_seed: Seed of the generated data.
    """

    infoenh: InfoEnhConfig = field(default_factory=InfoEnhConfig)
    dataset: str = "mosi"
    lengths: tuple[int, int, int] = (50, 500, 375)
    sizes: tuple[int, int] = (512, 256)
    dims: tuple[int, int, int] = (64, 16, 16)
    hidden: int = 32
    normalise: bool = True
    epochs: int = 25
    batch_size: int = 32
    learning_rate: float = 2e-3
    data_seed: int = 0


class Samples(NamedTuple):
    """A split: features and masks by modality, labels, and where the informative tokens are.

    Attributes:
        sequences: `(n, L, d)` by modality.
        masks: `(n, L)` bool by modality.
        labels: `(n,)`.
        positions: `(n, s)` int64 by what is there: `sentiment word`, `audio marker` and `vision
            marker` in the text, `audio cue` and `vision cue` in their own modality.
        readings: `(n,)`, signed strength of the cue, for audio and vision.
    """

    sequences: dict[str, Tensor]
    masks: dict[str, Tensor]
    labels: Tensor
    positions: dict[str, Tensor]
    readings: dict[str, Tensor]


# In which modality each informative part stands.
PARTS = {
    "sentiment word": "text",
    "audio marker": "text",
    "vision marker": "text",
    "audio cue": "audio",
    "vision cue": "vision",
}


class StudyModel(nn.Module):
    """InfoEnh, a readout a modality, and a linear head."""

    def __init__(self, config: StudyConfig) -> None:
        super().__init__()
        dims = dict(zip(MODALITIES, config.dims, strict=True))
        self.infoenh = InfoEnh.from_config(dims, config.infoenh)
        width, hidden = self.infoenh.enhanced_dim, config.hidden
        self.readouts = nn.ModuleDict(
            {m: TokenReadout(width, hidden, hidden, normalise=config.normalise) for m in MODALITIES}
        )
        self.head = nn.Sequential(nn.GELU(), nn.Linear(3 * hidden, 1))

    def forward(
        self,
        sequences: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        labels: Tensor | None = None,
    ) -> tuple[Tensor, InfoEnhOutput]:
        """Predict from `(B, L, d)` sequences by modality: `(B,)`, and what InfoEnh returned."""
        output = self.infoenh(sequences, masks, labels)
        read = [self.readouts[m](output.enhanced[m], output.mask[m]) for m in MODALITIES]
        return self.head(torch.cat(read, dim=-1)).squeeze(-1), output


def planted_samples(config: StudyConfig) -> tuple[Samples, Samples]:
    """Generate the training and the test samples."""
    train, test = config.sizes
    data = synthetic.make(
        config.dataset,
        sizes=(train, 1, test),
        lengths=config.lengths,
        dims=config.dims,
        seed=config.data_seed,
    )
    spec = replace(synthetic.DATASETS[config.dataset], lengths=config.lengths)
    return _samples(data["train"], spec), _samples(data["test"], spec)


def _samples(split: dict[str, Any], spec: synthetic.DatasetSpec) -> Samples:
    sequences = {name: torch.from_numpy(split[name]) for name in MODALITIES}
    truth = {name: torch.as_tensor(values) for name, values in split["planted"].items()}
    positions = {
        # The first token is [CLS].
        part: truth[key][:, None] + 1
        for part, key in (
            ("sentiment word", "text_word"),
            ("audio marker", "audio_word"),
            ("vision marker", "vision_word"),
        )
    }
    for i, name in enumerate(MODALITIES[1:], start=1):
        frames = synthetic.cue_frames(spec, i)
        positions[f"{name} cue"] = truth[f"{name}_frame"][:, None] + torch.arange(frames)
    return Samples(
        sequences,
        {name: frames.ne(0).any(dim=-1) for name, frames in sequences.items()},
        torch.from_numpy(split["regression_labels"]),
        positions,
        {name: truth[f"{name}_reading"] for name in MODALITIES[1:]},
    )


def train_model(model: StudyModel, samples: Samples, config: StudyConfig) -> None:
    """Train on the mean absolute error of the prediction plus InfoEnh's loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    model.train()
    for _ in range(config.epochs):
        for rows in torch.split(torch.randperm(len(samples.labels)), config.batch_size):
            labels = samples.labels[rows]
            sequences, masks = (
                {name: values[rows] for name, values in part.items()}
                for part in (samples.sequences, samples.masks)
            )
            prediction, output = model(sequences, masks, labels)
            optimizer.zero_grad()
            (l1_loss(prediction, labels) + output.loss).backward()
            optimizer.step()


def run_study(config: StudyConfig, seeds: Sequence[int]) -> dict[str, pd.DataFrame]:
    """Train one model a seed and measure it before and after.

    Args:
        config: What to train.
        seeds: Seeds of the weights and of the order of batches; the data stay the same.

    Returns:
        `runs`: `seed, stage, mae`. `selection`: `seed, stage, part, kept, chance`: mean share of
        the part's tokens that are kept, and what a random choice keeps. `signs`: `seed, stage,
        modality, sign, kept`: the same of the cues with a positive and with a negative reading.
        `distance`: `seed, stage,
        plan, source, target, cosine, discrepancy, cost`: from source to target, `before` the
        alignment and after it with each of `PLANS` on the same filtered tokens; cost is that of the
        plan, <P, C>. `pairs`: `seed, stage,
        modality, samples, mass, chance`: over the samples in which both a cue and its marker word
        are kept, the share of the cue's mass that the plan sends to that word, and what a uniform
        plan sends.
    """
    train, test = planted_samples(config)
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        torch.manual_seed(seed)
        model = StudyModel(config)
        _measure(model, test, {"seed": seed, "stage": "untrained"}, rows)
        train_model(model, train, config)
        _measure(model, test, {"seed": seed, "stage": "trained"}, rows)
    return {name: pd.DataFrame(table) for name, table in rows.items()}


@torch.no_grad()
def _measure(
    model: StudyModel,
    samples: Samples,
    key: dict[str, Any],
    rows: dict[str, list[dict[str, Any]]],
) -> None:
    prediction, output = model.eval()(samples.sequences, samples.masks)
    measured = {
        "runs": [{"mae": float(l1_loss(prediction, samples.labels))}],
        "selection": _selection(output, samples, model.infoenh.config.k),
        "signs": _signs(output, samples),
        "distance": _distances(output, model.infoenh.config),
        "pairs": _pairs(output, samples),
    }
    for name, table in measured.items():
        rows.setdefault(name, []).extend(key | row for row in table)


def _selection(output: InfoEnhOutput, samples: Samples, k: int) -> list[dict[str, Any]]:
    return [
        {
            "part": part,
            "kept": float(kept_share(output.selected[modality], samples.positions[part]).mean()),
            "chance": float(kept_by_chance(samples.masks[modality], k).mean()),
        }
        for part, modality in PARTS.items()
    ]


def _signs(output: InfoEnhOutput, samples: Samples) -> list[dict[str, Any]]:
    table = []
    for modality, reading in samples.readings.items():
        kept = kept_share(output.selected[modality], samples.positions[f"{modality} cue"])
        for sign, rows in (("positive", reading > 0), ("negative", reading < 0)):
            table.append({"modality": modality, "sign": sign, "kept": float(kept[rows].mean())})
    return table


def _distances(output: InfoEnhOutput, config: InfoEnhConfig) -> list[dict[str, Any]]:
    z, mask = output.filtered, output.token_mask
    table = []

    def add(plan: str, i: str, j: str, x: Tensor, x_mask: Tensor) -> None:
        cosine = pairwise_distance(x, z[j], x_mask, mask[j])
        measured = {
            "cosine": float(cosine.mean()),
            "discrepancy": discrepancy(x[x_mask], z[j][mask[j]]),
        }
        table.append({"plan": plan, "source": i, "target": j} | measured)

    for i, j in ORDERED_PAIRS:
        add("before", i, j, z[i], mask[i])
    for plan, change in PLANS.items():
        aligned = align(z, mask, config.model_copy(update=change))
        moved = {m: iter(torch.split(aligned.enhanced[m], config.d, -1)[1:]) for m in MODALITIES}
        for i, j in ORDERED_PAIRS:  # in the order in which they are concatenated
            # Rows of a push-forward are tokens of the target.
            add(plan, i, j, next(moved[i]), mask[j] if plan == "push-forward" else mask[i])
            table[-1]["cost"] = float(
                transport_cost(aligned.plans[i, j], cosine_cost(z[i], z[j])).mean()
            )
    return table


def _pairs(output: InfoEnhOutput, samples: Samples) -> list[dict[str, Any]]:
    table = []
    for modality in MODALITIES[1:]:
        cue, marker = (
            (output.selected[m][:, :, None] == samples.positions[part][:, None]).any(dim=-1)
            for m, part in ((modality, f"{modality} cue"), ("text", f"{modality} marker"))
        )
        mass = matched_mass(output.plans[modality, "text"], cue, marker)
        found = ~mass.isnan()
        words = output.token_mask["text"].sum(dim=1)
        table.append(
            {
                "modality": modality,
                "samples": int(found.sum()),
                "mass": float(mass[found].mean()),
                "chance": float((1 / words[found]).mean()),
            }
        )
    return table


def kept_share(selected: Tensor, positions: Tensor) -> Tensor:
    """Share of the positions that are among the selected ones.

    Args:
        selected: `(n, k)` int64, as `InfoEnhOutput.selected`: positions, -1 where absent.
        positions: `(n, s)` int64, what should be kept of every sample.

    Returns:
        `(n,)` float in [0, 1].
    """
    return (selected[:, :, None] == positions[:, None]).any(dim=1).float().mean(dim=1)


def kept_by_chance(mask: Tensor, k: int) -> Tensor:
    """Expected share that k tokens drawn at random without replacement keep of any positions.

    Args:
        mask: `(n, L)` bool, the valid tokens.
        k: Tokens drawn, or all of a sample that has fewer.

    Returns:
        `(n,)` float: min(k, L) / L over the L valid tokens.
    """
    length = mask.sum(dim=1).clamp(min=1)
    return length.clamp(max=k) / length


def matched_mass(plan: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Share of the mass leaving the marked rows that arrives at the marked columns.

    Args:
        plan: `(n, k, l)`.
        rows: `(n, k)` bool.
        columns: `(n, l)` bool.

    Returns:
        `(n,)`; NaN for a sample without a marked row of mass or without a marked column.
    """
    leaving = (plan * rows[:, :, None]).sum(dim=(1, 2))
    arriving = (plan * rows[:, :, None] * columns[:, None]).sum(dim=(1, 2))
    defined = (leaving > 0) & columns.any(dim=1)
    return torch.where(defined, arriving / leaving, torch.nan)


def main() -> None:
    """Run the study for the defaults and two variants, and draw the figure of the defaults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/infoenh_study"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=StudyConfig.epochs)
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[pd.DataFrame]] = {}
    for variant, changes in VARIANTS.items():
        study = run_study(StudyConfig(epochs=options.epochs, **changes), range(options.seeds))
        if variant == "default":
            save(infoenh_study(study), options.out / "figure")
        for name, table in study.items():
            table.insert(0, "variant", variant)
            tables.setdefault(name, []).append(table)
    for name, parts in tables.items():
        joined = pd.concat(parts, ignore_index=True)
        joined.to_csv(options.out / f"{name}.csv", index=False, float_format="%.5f")


if __name__ == "__main__":
    main()
