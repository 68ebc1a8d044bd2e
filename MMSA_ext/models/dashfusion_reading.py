"""Where DashFusion's paper and released code differ, or the paper leaves a choice: one key each.

docs/models/dashfusion.md lists both readings side by side.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from MMSA_ext.data.retrieval import RetrievalMode
from MMSA_ext.models.losses import Reduction, Similarity
from MMSA_ext.models.parts.attention import Activation, ResidualStyle
from MMSA_ext.models.parts.encoders import ProjectorKind


class Reading(BaseModel):
    """How the paper is read. Defaults are the paper's; the released value is named in brackets.

    Attributes:
        activation: ReLU as printed [GELU].
        text_projector: `linear` [`mlp`], see `TextEncoder`.
        encoder_attention_dropout: Dropout on the attention weights of the audio and vision encoders
            [0.5]. Default 0: it forces a slow attention path and the paper does not ask for it.
        encoder_final_norm: LayerNorm after the audio and vision encoders [True].
        cloned_layers: All layers of such an encoder start as copies of the first [True].
        alignment_head_dim: Width of an alignment head; None is d / heads [32].
        shared_query: Alignment and Multi-CA with one query (and one or no output) projection for
            all source modalities, without biases [True].
        fusion_style: `post_norm`, LN(x + f(x)) [`branch_norm`, x + LN(f(x))].
        fusion_output_projection: Whether attention inside the fusion ends in a linear layer
            [False].
        fusion_scale: `head` scales logits by 1/sqrt(d_k) [`model`: 1/sqrt(d)].
        padding: `masked` in every attention and mean [`seen`: alignment and fusion take it for
            content; audio and vision are padded to the data set's full lengths, and their encoders
            mask rows whose sum is 0].
        multimodal_global: Global feature of H: `mean` over tokens [`first` token].
        similarity: Of the contrastive loss; cosine, the paper writes a dot product.
        semantic_negatives: Negatives of semantic alignment: the other anchors of the `batch`, in
            the positive's modality [`retrieved_text`: text of the retrieved negatives].
        contrast_reduction: See `PairLosses.reduce` [`mean_released`].
        constant_pairs: Whether pairs of a modality that is constant in the training split, which
            tell nothing apart, count in the contrastive loss [True].
        retrieval: `correct` or [`rank_position`], see `RetrievalConfig`.
        similar_window, dissimilar_window: Shares of the ranking searched by `rank_position`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    activation: Activation = "relu"
    text_projector: ProjectorKind = "linear"
    encoder_attention_dropout: float = Field(0.0, ge=0, lt=1)
    encoder_final_norm: bool = False
    cloned_layers: bool = False
    alignment_head_dim: int | None = Field(None, ge=1)
    shared_query: bool = False
    fusion_style: ResidualStyle = "post_norm"
    fusion_output_projection: bool = True
    fusion_scale: Literal["head", "model"] = "head"
    padding: Literal["masked", "seen"] = "masked"
    multimodal_global: Literal["mean", "first"] = "mean"
    similarity: Similarity = "cosine"
    semantic_negatives: Literal["batch", "retrieved_text"] = "batch"
    contrast_reduction: Reduction = "mean_live"
    constant_pairs: bool = False
    retrieval: RetrievalMode = "correct"
    similar_window: float = Field(1.0, gt=0, le=1)
    dissimilar_window: float = Field(1.0, gt=0, le=1)


class ReleasedReading(Reading):
    """What the authors' code computes: every bracketed value of `Reading` as the default."""

    activation: Activation = "gelu"
    text_projector: ProjectorKind = "mlp"
    encoder_attention_dropout: float = Field(0.5, ge=0, lt=1)
    encoder_final_norm: bool = True
    cloned_layers: bool = True
    alignment_head_dim: int | None = Field(32, ge=1)
    shared_query: bool = True
    fusion_style: ResidualStyle = "branch_norm"
    fusion_output_projection: bool = False
    fusion_scale: Literal["head", "model"] = "model"
    padding: Literal["masked", "seen"] = "seen"
    multimodal_global: Literal["mean", "first"] = "first"
    semantic_negatives: Literal["batch", "retrieved_text"] = "retrieved_text"
    contrast_reduction: Reduction = "mean_released"
    constant_pairs: bool = True
    retrieval: RetrievalMode = "rank_position"
