"""Where the modalities lie: their representations in two dimensions, and how far they are apart.

InfoEnh shows its effect by t-SNE before and after (its Fig. 7). A t-SNE picture alone proves
nothing: it keeps neighbours and gives up distances, and its look depends on perplexity and seed. So
the same representations are measured too, and beside what the alignment gives stands a control,
the same tokens under a plan without information: eq. 13 appends to every modality what it got from
the others, and that alone brings them together, whatever the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.manifold import TSNE
from torch import Tensor

from MMSA_ext.errors import CheckpointError, FeatureFileError
from MMSA_ext.explain.samples import drawn
from MMSA_ext.explain.trained_model import TrainedModel
from MMSA_ext.models.contract import Inputs
from MMSA_ext.models.dashfusion import DashFusion
from MMSA_ext.models.infoenh import InfoEnh, InfoEnhOutput
from MMSA_ext.models.infoenh.alignment import align
from MMSA_ext.models.optimal_transport import cosine_cost, unit_vectors
from MMSA_ext.models.parts.attention import masked_mean
from MMSA_ext.names import MODALITIES

FEWEST_SAMPLES = 4
MOST_TOKENS = 2000  # of a modality, for the discrepancy: its cost is quadratic


@dataclass(frozen=True)
class Representations:
    """What a model makes of each modality, stage by stage.

    Attributes:
        stages: Stage -> modality -> tokens `(n, k_m, d)`, the same d for all modalities of a stage.
        masks: Stage -> modality -> `(n, k_m)` bool, True where there is a token.
        drawn: Stages shown as a picture; the others are controls, which are measured only.
    """

    stages: dict[str, dict[str, Tensor]]
    masks: dict[str, dict[str, Tensor]]
    drawn: tuple[str, ...]

    def vectors(self, stage: str) -> dict[str, Tensor]:
        """One vector a sample: the mean over its tokens, `(n, d)` by modality."""
        masks = self.masks[stage]
        return {m: masked_mean(tokens, masks[m]) for m, tokens in self.stages[stage].items()}


@torch.no_grad()
def representations(trained: TrainedModel) -> Representations:
    """Representations of the modalities by a trained model, of its samples.

    Returns:
        With InfoEnh: `pooled`, its tokens e before the bottleneck; `filtered`, z behind it;
        `aligned`, E' of eq. 13, which the host reads; and the control `aligned, uniform plan`.
        DashFusion: `encoded`, the global features, with that of the aligned sequence H as
        `multimodal`. Another model: `encoded`, its `Feature_t`, `Feature_a` and `Feature_v`.

    Raises:
        CheckpointError: The model has no representations of one width for all modalities.
        FeatureFileError: There are too few samples for a picture.
    """
    if len(trained.samples) < FEWEST_SAMPLES:
        raise FeatureFileError(
            f"{trained.features.path}: {len(trained.samples)} samples are too few to show how "
            f"modalities lie to each other; take {FEWEST_SAMPLES} or more."
        )
    infoenh = [part for part in trained.network.modules() if isinstance(part, InfoEnh)]
    if infoenh:
        return _of_infoenh(trained, infoenh[0])
    if isinstance(trained.core, DashFusion):
        outputs = [trained.core.represent(Inputs(*call.inputs)).globals for call in trained.calls]
    else:
        outputs = [_features(trained, trained.network(*call.inputs)) for call in trained.calls]
    vectors = _joined(outputs)
    tokens = {name: x.unsqueeze(1) for name, x in vectors.items()}
    masks = {name: torch.ones(len(x), 1, dtype=torch.bool) for name, x in vectors.items()}
    return Representations({"encoded": tokens}, {"encoded": masks}, ("encoded",))


def _features(trained: TrainedModel, outputs: Any) -> dict[str, Tensor]:
    keys = dict(zip(MODALITIES, ("Feature_t", "Feature_a", "Feature_v"), strict=True))
    there = isinstance(outputs, Mapping)
    found = {m: outputs[key] for m, key in keys.items() if there and key in outputs}
    widths = {m: tuple(x.shape[1:]) for m, x in found.items()}
    if len(found) < 2 or len(set(widths.values())) > 1:
        listed = ", ".join(f"{m} {'x'.join(map(str, width))}" for m, width in widths.items())
        raise CheckpointError(
            f"{trained.name} has no representations of several modalities in one space "
            f"({listed or 'none at all'}); use a checkpoint of dashfusion, confede, or of a model "
            "with InfoEnh such as self_mm_infoenh."
        )
    return found


def _of_infoenh(trained: TrainedModel, infoenh: InfoEnh) -> Representations:
    outputs: list[InfoEnhOutput] = []
    with infoenh.register_forward_hook(lambda module, given, output: outputs.append(output)):
        for call in trained.calls:
            trained.network(*call.inputs)
    tokens = _joined(output.token_mask for output in outputs)
    filtered = _joined(output.filtered for output in outputs)
    stages = {
        "pooled": _joined(output.embeddings for output in outputs),
        "filtered": filtered,
        "aligned": _joined(output.enhanced for output in outputs),
    }
    masks = {
        "pooled": tokens,
        "filtered": tokens,
        "aligned": _joined(output.mask for output in outputs),
    }
    if infoenh.config.alignment and infoenh.config.plan != "uniform":
        control = align(filtered, tokens, infoenh.config.model_copy(update={"plan": "uniform"}))
        stages["aligned, uniform plan"] = control.enhanced
        masks["aligned, uniform plan"] = control.mask
    return Representations(stages, masks, ("pooled", "aligned"))


def _joined(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Batches of `(b, ...)` by modality, in a row and on the CPU."""
    listed = list(parts)
    return {name: torch.cat([part[name] for part in listed]).cpu() for name in listed[0]}


def project(
    found: Representations, samples: pd.DataFrame, *, perplexity: float = 30.0, seed: int = 0
) -> pd.DataFrame:
    """Two dimensions of every sample's vectors, all modalities of a stage in one picture (t-SNE).

    Args:
        found: Of `representations`.
        samples: `TrainedModel.samples`.
        perplexity: At most a third of the points are neighbours: it is lowered where there are few.
        seed: Seed of t-SNE.

    Returns:
        One row a stage, modality and sample: `stage`, `modality`, `split`, `id`, `label`, `x`, `y`,
        and the settings `perplexity` (as used), `seed` and `divergence` (what t-SNE minimised).
    """
    tables = []
    for stage in found.drawn:
        vectors = found.vectors(stage)
        points = torch.cat(list(vectors.values())).double().numpy()
        used = min(perplexity, (len(points) - 1) / 3)
        tsne = TSNE(perplexity=used, random_state=seed, init="pca", metric="cosine")
        placed = tsne.fit_transform(points)
        count = len(vectors)
        tables.append(
            pd.DataFrame(
                {
                    "stage": stage,
                    "modality": np.repeat(list(vectors), len(samples)),
                    **{key: np.tile(samples[key], count) for key in ("split", "id", "label")},
                    "x": placed[:, 0],
                    "y": placed[:, 1],
                    "perplexity": used,
                    "seed": seed,
                    "divergence": float(tsne.kl_divergence_),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def distances(found: Representations, *, seed: int = 0) -> pd.DataFrame:
    """How far the modalities are apart, stage by stage.

    Args:
        found: Of `representations`.
        seed: Seed of the draw of tokens for the discrepancy, where there are very many.

    Returns:
        One row a stage and pair: `stage`, `source`, `target`, `samples`, and three measures, each 0
        where the modalities are together. `cosine`: mean cosine distance between the tokens of the
        same sample. `centroid`: distance of the mean vectors of the two modalities, in units of the
        spread of their samples (root mean square distance to the own mean), of vectors of length
        one. `discrepancy`: maximum mean discrepancy of all tokens.
    """
    rows = []
    for stage, tokens in found.stages.items():
        masks, vectors = found.masks[stage], found.vectors(stage)
        for i, j in combinations(tokens, 2):
            cosine = pairwise_distance(tokens[i], tokens[j], masks[i], masks[j])
            real = [tokens[m][masks[m]] for m in (i, j)]
            some = [rows[torch.from_numpy(drawn(len(rows), MOST_TOKENS, seed))] for rows in real]
            rows.append(
                {
                    "stage": stage,
                    "source": i,
                    "target": j,
                    "samples": len(vectors[i]),
                    "cosine": float(cosine.mean()),
                    "centroid": centroid_distance(vectors[i], vectors[j]),
                    "discrepancy": discrepancy(*some),
                }
            )
    return pd.DataFrame(rows)


def pairwise_distance(x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor) -> Tensor:
    """Mean cosine distance over all pairs of a row of x and a row of y of the same sample.

    Args:
        x: `(n, k, d)`.
        y: `(n, l, d)`.
        x_mask: `(n, k)` bool.
        y_mask: `(n, l)` bool.

    Returns:
        `(n,)`, between 0 and 2; a zero row has distance 1 to every row.
    """
    both = (x_mask[:, :, None] & y_mask[:, None]).to(x.dtype)
    return (cosine_cost(x, y) * both).sum(dim=(1, 2)) / both.sum(dim=(1, 2)).clamp(min=1)


def discrepancy(x: Tensor, y: Tensor) -> float:
    """Maximum mean discrepancy of two sets of directions: how different their distributions are.

    Unlike a mean distance it is 0 only if the distributions are the same, so that it is not lowered
    by moving one of them to the centre of the other. Rows are scaled to length one, as the cost of
    the alignment sees them. The kernel is exp(-|x - y|^2), the value the root of the biased
    estimate.

    Args:
        x: `(n, d)`.
        y: `(m, d)`.

    Returns:
        Between 0 and the square root of 2.
    """
    x, y = unit_vectors(x), unit_vectors(y)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square()).mean()

    squared = kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)
    return float(squared.clamp(min=0).sqrt())


def centroid_distance(x: Tensor, y: Tensor) -> float:
    """Distance of two means in units of the spread around them, of rows scaled to length one.

    Args:
        x: `(n, d)`.
        y: `(m, d)`.

    Returns:
        0 where the means agree; infinite where they differ and nothing spreads.
    """
    x, y = unit_vectors(x), unit_vectors(y)
    means = [part.mean(dim=0) for part in (x, y)]
    spread = torch.cat([x - means[0], y - means[1]]).square().sum(dim=1).mean().sqrt()
    apart = torch.linalg.vector_norm(means[0] - means[1])
    return float(apart / spread) if apart > 0 else 0.0
