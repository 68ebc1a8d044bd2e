"""The models of this package, as data: what is known of them before any module is imported."""

from __future__ import annotations

from typing import NamedTuple


class Shipped(NamedTuple):
    """One model of this package.

    Attributes:
        module: Module under `MMSA_ext.models` that registers it.
        paper: Title and place of the paper.
        host: MMSA's model that it is a variant of; None for models on this package's trainer.
    """

    module: str
    paper: str
    host: str | None = None


_DASHFUSION = (
    "DashFusion: Dual-stream Alignment with Hierarchical Bottleneck Fusion for Multimodal "
    "Sentiment Analysis (Wen et al.)"
)
_ALMT = (
    "Learning Language-guided Adaptive Hyper-modality Representation for Multimodal Sentiment "
    "Analysis (Zhang et al., EMNLP 2023)"
)
_CENET = (
    "Cross-modal Enhancement Network for Multimodal Sentiment Analysis (Wang et al., IEEE "
    "Transactions on Multimedia 2023)"
)
_TETFN = (
    "TETFN: A text enhanced transformer fusion network for multimodal sentiment analysis (Wang et "
    "al., Pattern Recognition 2023)"
)
_INFOENH = (
    "InfoEnh: Towards Multimodal Sentiment Analysis via Information Bottleneck Filter and Optimal "
    "Transport Alignment (Xie et al.)"
)
# Hosts of InfoEnh and the modules with their variants.
_HOSTS = {
    **dict.fromkeys(("ef_lstm", "lf_dnn", "lmf", "mfn", "mult", "tfn"), "hosts.feature_level"),
    **{name: f"hosts.{name}" for name in ("misa", "mmim", "self_mm")},
}

MODELS = {
    "almt": Shipped("almt", _ALMT),
    "almt_released": Shipped("almt", _ALMT),
    "cenet": Shipped("cenet", _CENET),
    "cenet_released": Shipped("cenet", _CENET),
    "confede": Shipped(
        "confede",
        "ConFEDE: Contrastive Feature Decomposition for Multimodal Sentiment Analysis "
        "(Yang et al., ACL 2023)",
    ),
    "confede_infoenh": Shipped(
        "confede",
        "ConFEDE (Yang et al., ACL 2023) with the information bottleneck and the "
        "optimal-transport alignment of InfoEnh",
    ),
    "dashfusion": Shipped("dashfusion", _DASHFUSION),
    "dashfusion_released": Shipped("dashfusion", _DASHFUSION),
    "dbf": Shipped(
        "dbf",
        "DBF: Denoising Bottleneck with Mutual Information Maximization for Video Multimodal "
        "Fusion (Wu et al., ACL 2023)",
    ),
    "fdmer_reconstructed": Shipped(
        "fdmer_reconstructed",
        "Reconstruction from the abstract, not the authors' model: Disentangled Representation "
        "Learning for Multimodal Emotion Recognition (FDMER; Yang et al., ACM MM 2022)",
    ),
    "tetfn": Shipped("tetfn", _TETFN),
    "tetfn_released": Shipped("tetfn", _TETFN),
    "text_only": Shipped(
        "text_only", "Control: DashFusion's text encoder, projector and head alone"
    ),
    **{f"{host}_infoenh": Shipped(home, _INFOENH, host) for host, home in _HOSTS.items()},
}

_MULTIMODAL_TASKS = (
    "its unimodal heads read the subnets that its fusion reads: enhanced features would make the "
    "unimodal tasks multimodal"
)
# Models of MMSA without a variant, and why.
NO_HOSTS = {
    "bert_mag": "MAG shifts BERT's hidden states inside of BERT, by audio and vision frames that "
    "are aligned with its tokens; there are no sequences between encoders and fusion",
    "graph_mfn": "its fusion graph keeps networks outside of the model's parameters, so that they "
    "are never trained",
    "mctn": "it translates between its input sequences and returns a tuple of decoded sequences; "
    "with InfoEnh in front, what it has to reconstruct would itself be learned",
    "mfm": "it reconstructs its input sequences and returns a tuple; with InfoEnh in front, what "
    "it has to reconstruct would itself be learned",
    **dict.fromkeys(("mlf_dnn", "mlmf", "mtfn"), _MULTIMODAL_TASKS),
    "tfr_net": "it reconstructs what was removed from its input sequences and returns a tuple; "
    "with InfoEnh in front, what it has to reconstruct would itself be learned",
}

# Models of MMSA with a faster form (`fast`), which their variants share.
FAST = frozenset({"bert_mag", "misa", "mmim", "mult", "self_mm"})

# Why there is no model of a name that users may expect.
REFUSED = {
    "fdmer": "there is no model 'fdmer': neither its text nor its code is openly available; run "
    "fdmer_reconstructed, which is rebuilt from its abstract and is not the authors' model.",
    **{
        f"{host}_infoenh": f"there is no '{host}_infoenh', because of what {host} is: {reason}. "
        f"InfoEnh is available for confede, and for {', '.join(sorted(_HOSTS))}."
        for host, reason in NO_HOSTS.items()
    },
}
