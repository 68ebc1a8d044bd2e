"""DashFusion written the obvious way: what the package's fast path is tested and measured against.

Every sample of a training step is encoded, anchors and retrieved ones alike and as often as they
occur, padded to the data set's full lengths; the layers are `torch.nn.TransformerEncoder` and
`torch.nn.MultiheadAttention`; NT-Xent loops over anchors and pairs. Attention, masks, dropout and
losses are those of `dashfusion`'s default reading: with dropout off both give equal numbers.

`register()` registers it as the model `dashfusion_plain`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from MMSA_ext.data.retrieval import ContrastSets
from MMSA_ext.models.contract import Inputs, MSAModel, StepBatch, StepOutput
from MMSA_ext.models.dashfusion import DashFusion, DashFusionConfig
from MMSA_ext.models.parts.attention import MultiHeadAttention, TransformerLayer, masked_mean
from MMSA_ext.models.parts.fusion import BottleneckFusionLayer
from MMSA_ext.registry import is_registered, register_model
from MMSA_ext.text_encoders import build_text_encoder, load_text_encoder
from MMSA_ext.training.trainer import Trainer

MODALITIES = ("text", "audio", "vision")
# Keys in which only the default reading is written out here.
FIXED = (
    *("reading", "temporal_alignment", "semantic_alignment", "supervised_contrast", "fusion"),
    "retrieved_features",
)


class PlainFrames(nn.Module):
    """Audio or vision: linear layer, class token, positions, `nn.TransformerEncoder`."""

    def __init__(self, config: DashFusionConfig, modality: int) -> None:
        super().__init__()
        dim = config.dim
        self.length = config.seq_lens[modality]
        self.projection = nn.Linear(config.feature_dims[modality], dim)
        self.class_token = nn.Parameter(torch.ones(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, self.length + 1, dim))
        self.dropout = nn.Dropout(config.embedding_dropout)
        layer = nn.TransformerEncoderLayer(
            dim, config.heads, config.feed_forward_dim, config.encoder_dropout, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.encoder_layers)
        for layer in self.encoder.layers:
            layer.self_attn.dropout = 0.0  # the default reading has none on attention weights

    def forward(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        frames = F.pad(frames, (0, 0, 0, self.length - frames.shape[1]))
        mask = F.pad(mask, (1, self.length - mask.shape[1]), value=False)
        mask[:, 0] = True  # the class token
        tokens = self.class_token.expand(len(frames), -1, -1)
        x = torch.cat([tokens, self.projection(frames)], dim=1) + self.positions
        x = self.encoder(self.dropout(x), src_key_padding_mask=~mask)
        if x.shape[1] < mask.shape[1]:  # evaluation's fast path cuts off what nobody needs
            x = F.pad(x, (0, 0, 0, mask.shape[1] - x.shape[1]))
        return x * mask.unsqueeze(-1), mask


class PlainLayer(nn.Module):
    """Post-norm cross-attention and feed-forward network (eq. 9)."""

    def __init__(self, config: DashFusionConfig) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(config.dim, config.heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.linear1 = nn.Linear(config.dim, config.feed_forward_dim)
        self.linear2 = nn.Linear(config.feed_forward_dim, config.dim)
        self.feed_forward_norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        z = self.attention_norm(x + read(self.attention, x, source, mask))
        return self.feed_forward_norm(z + self.linear2(F.relu(self.linear1(z))))


class PlainFusionLayer(nn.Module):
    """One layer of hierarchical bottleneck fusion (eq. 6 to 9)."""

    def __init__(self, config: DashFusionConfig, tokens: int) -> None:
        super().__init__()
        dim = config.dim
        self.tokens = tokens
        self.redistribute = PlainLayer(config)
        self.multi_ca = nn.ModuleDict(
            {m: nn.MultiheadAttention(dim, config.heads, batch_first=True) for m in MODALITIES}
        )
        self.multi_ca_norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, config.feed_forward_dim)
        self.linear2 = nn.Linear(config.feed_forward_dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.update = nn.ModuleDict({m: PlainLayer(config) for m in MODALITIES})

    def forward(
        self, H: Tensor, H_mask: Tensor, features: dict[str, Tensor], masks: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        B = self.redistribute(H, H, H_mask)[:, : self.tokens]
        mask = H_mask[:, : self.tokens]
        H = B
        for m in MODALITIES:
            H = H + read(self.multi_ca[m], B, features[m], masks[m])
        H = self.multi_ca_norm(H)
        H = self.feed_forward_norm(H + self.linear2(F.relu(self.linear1(H))))
        return H, mask, {m: self.update[m](features[m], H, mask) for m in MODALITIES}


class PlainDashFusion(MSAModel):
    """The default reading of DashFusion, padded, repeated and looped over."""

    ranked_by = MODALITIES
    reads_padding = True  # so that evaluation leaves the order of samples alone

    def __init__(self, config: DashFusionConfig) -> None:
        super().__init__()
        differing = [
            k for k in FIXED if getattr(config, k) != DashFusionConfig.model_fields[k].default
        ]
        if differing:
            raise ValueError(f"dashfusion_plain has no other reading of {', '.join(differing)}.")
        self.config = config
        self.retrieval = config.retrieval_config()
        self.text_encoder = (
            load_text_encoder(config.pretrained, random_init=config.random_init)
            if config.text_encoder_config is None
            else build_text_encoder(config.text_encoder_config)
        )
        hidden = int(self.text_encoder.config.hidden_size)
        self.text_projector = nn.Sequential(nn.Linear(hidden, config.dim), nn.LayerNorm(config.dim))
        self.frames = nn.ModuleDict(
            {"audio": PlainFrames(config, 1), "vision": PlainFrames(config, 2)}
        )
        self.alignment = nn.ModuleDict(
            {
                m: nn.MultiheadAttention(config.dim, config.heads, batch_first=True)
                for m in ("audio", "vision")
            }
        )
        self.fusion = nn.ModuleList(
            PlainFusionLayer(config, max(1, config.bottleneck_tokens >> level))
            for level in range(config.fusion_layers)
        )
        dim = config.dim
        self.head = nn.Sequential(
            *(nn.Linear(4 * dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim), nn.ReLU()),
            nn.Linear(dim, 1),
        )

    def check(self, split: Any, source: str) -> None:
        """Trust the data: this model is for measurements."""

    def encode(self, inputs: Inputs) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Sequences and masks of the modalities and of H."""
        text, audio, vision, audio_mask, vision_mask = inputs
        text = F.pad(text, (0, self.config.seq_lens[0] - text.shape[-1])).long()
        mask = text[:, 1].bool()
        hidden = self.text_encoder(
            input_ids=text[:, 0], attention_mask=mask, token_type_ids=text[:, 2]
        ).last_hidden_state
        x = {"text": self.text_projector(hidden) * mask.unsqueeze(-1)}
        masks = {"text": mask}
        x["audio"], masks["audio"] = self.frames["audio"](audio, audio_mask)
        x["vision"], masks["vision"] = self.frames["vision"](vision, vision_mask)
        x["multimodal"] = x["text"]
        for m in ("audio", "vision"):
            read_from_text = read(self.alignment[m], x["text"], x[m], masks[m])
            x["multimodal"] = x["multimodal"] + read_from_text
        masks["multimodal"] = mask
        return x, masks

    def predict_from(self, x: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        """Fuse and predict."""
        H, H_mask = x["multimodal"], masks["multimodal"]
        features = {m: x[m] for m in MODALITIES}
        for layer in self.fusion:
            H, H_mask, features = layer(H, H_mask, features, masks)
        first = torch.cat([*(features[m][:, 0] for m in MODALITIES), H[:, 0]], dim=-1)
        return self.head(first)

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        x, masks = self.encode(inputs)
        return {"M": self.predict_from(x, masks)}

    def training_step(self, step: StepBatch) -> StepOutput:
        rows, contrast = step.anchors[:, None], step.contrast
        if contrast is not None:
            rows = torch.cat([rows, contrast.positives, contrast.negatives], dim=1)
        given = Inputs(*(x[rows.flatten()] for x in step.inputs))
        x, masks = self.encode(given)
        width = rows.shape[1]  # the anchor, two positives, four negatives
        prediction = self.predict_from(
            {m: value[::width] for m, value in x.items()},
            {m: value[::width] for m, value in masks.items()},
        )
        losses = {"prediction_loss": F.mse_loss(prediction, step.labels)}
        pooled = {m: masked_mean(x[m], masks[m]).unflatten(0, (-1, width)) for m in x}
        if self.config.contrast_weight > 0:
            losses["contrastive_loss"] = self.config.contrast_weight * self.contrast(
                pooled, contrast
            )
        return StepOutput(prediction, losses)

    def contrast(self, pooled: dict[str, Tensor], sets: ContrastSets | None) -> Tensor:
        """Mean over anchors of the mean over their live pairs (eq. 5 and 11)."""
        anchors = len(pooled["text"])
        total = pooled["text"].new_zeros(())
        for i in range(anchors):
            pairs = []
            text = pooled["text"][i, 0]
            for partner in ("vision", "audio"):
                others = [pooled[partner][j, 0] for j in range(anchors) if j != i]
                if others:
                    pairs.append(self.pair(text, pooled[partner][i, 0], others))
            for feature in pooled.values() if sets is not None else ():
                negatives = [feature[i, 3 + n] for n in range(4) if sets.negative_mask[i, n]]
                for p in range(2):
                    if negatives and sets.positive_mask[i, p]:
                        pairs.append(self.pair(feature[i, 0], feature[i, 1 + p], negatives))
            if pairs:
                total = total + torch.stack(pairs).mean()
        return total / anchors

    def pair(self, anchor: Tensor, positive: Tensor, negatives: list[Tensor]) -> Tensor:
        """-log of the positive's share (eq. 5)."""
        others = torch.stack([positive, *negatives])
        logits = F.cosine_similarity(anchor[None], others, dim=-1) / self.config.temperature
        return -F.log_softmax(logits, dim=0)[0]

    def contrast_features(self, inputs: Inputs) -> dict[str, Tensor]:
        x, masks = self.encode(inputs)
        return {m: masked_mean(x[m], masks[m]) for m in x}


def read(attention: nn.MultiheadAttention, target: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """MHCA(target, source) with padding of the source masked."""
    return attention(target, source, source, key_padding_mask=~mask, need_weights=False)[0]


def take_weights(plain: PlainDashFusion, model: DashFusion) -> None:
    """Give the plain model the weights of the package's model."""
    plain.text_encoder.load_state_dict(model.text_encoder.encoder.state_dict())
    plain.text_projector.load_state_dict(model.text_encoder.projector.state_dict())
    plain.head.load_state_dict(model.head.state_dict())
    frame_encoders = {"audio": model.audio_encoder, "vision": model.vision_encoder}
    with torch.no_grad():
        for m, encoder in frame_encoders.items():
            frames = plain.frames[m]
            frames.projection.load_state_dict(encoder.projection.state_dict())
            frames.class_token.copy_(encoder.class_token)
            frames.positions.copy_(encoder.positions)
            for ours, theirs in zip(encoder.layers, frames.encoder.layers, strict=True):
                copy_attention(ours.attention, theirs.self_attn)
                theirs.norm1.load_state_dict(ours.attention_norm.norm.state_dict())
                theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
                theirs.linear2.load_state_dict(ours.feed_forward[3].state_dict())
                theirs.norm2.load_state_dict(ours.feed_forward_norm.norm.state_dict())
            copy_attention(
                model.temporal_alignment.cross_attention.attention[m], plain.alignment[m]
            )
        for ours, theirs in zip(model.fusion.layers, plain.fusion, strict=True):
            copy_fusion_layer(ours, theirs)


def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    """Query, key and value in one matrix, as PyTorch keeps them."""
    inner = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.copy_(torch.cat([linear.weight for linear in inner]))
    theirs.in_proj_bias.copy_(torch.cat([linear.bias for linear in inner]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


def copy_layer(ours: TransformerLayer, theirs: PlainLayer) -> None:
    """Attention, feed-forward network and norms."""
    copy_attention(ours.attention, theirs.attention)
    theirs.attention_norm.load_state_dict(ours.attention_norm.norm.state_dict())
    theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward[3].state_dict())
    theirs.feed_forward_norm.load_state_dict(ours.feed_forward_norm.norm.state_dict())


def copy_fusion_layer(ours: BottleneckFusionLayer, theirs: PlainFusionLayer) -> None:
    """One layer of the fusion."""
    copy_layer(ours.redistribute, theirs.redistribute)
    for m in MODALITIES:
        copy_attention(ours.multi_ca.attention[m], theirs.multi_ca[m])
        copy_layer(ours.update[m], theirs.update[m])
    theirs.multi_ca_norm.load_state_dict(ours.multi_ca_norm.norm.state_dict())
    theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward[3].state_dict())
    theirs.feed_forward_norm.load_state_dict(ours.feed_forward_norm.norm.state_dict())


def register() -> None:
    """Register the model `dashfusion_plain`, with the keys of `dashfusion`."""
    if not is_registered("dashfusion_plain"):
        options = {"config": DashFusionConfig, "trainer": Trainer, "paper": "reference"}
        register_model("dashfusion_plain", **options)(build)


def build(args: Any) -> PlainDashFusion:
    """The model of a run's configuration."""
    return PlainDashFusion(DashFusionConfig.from_args(args))
