"""One utterance as it is: unpadded, with what is there and without what is not.

Converters yield these, and write a feature file or shards from them; scoring takes them one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

__all__ = ["Sample"]


@dataclass(frozen=True)
class Sample:
    """An utterance.

    Attributes:
        id: Unique over all splits.
        split: `train`, `valid` or `test`; `sample` where there are no splits.
        raw_text: Transcript; empty where there is none.
        text_bert: (3, L) int64 token ids, mask (all ones), segment ids; None where not tokenised.
        text: (L, d_t) word vectors; or None.
        audio: (L_a, d_a) frames, all valid; None where the modality is absent.
        vision: (L_v, d_v) frames, all valid; None where the modality is absent.
        labels: `M`, and `T`, `A`, `V` where present -> value; empty without labels.
    """

    id: str
    split: str = "sample"
    raw_text: str = ""
    text_bert: NDArray[Any] | None = None
    text: NDArray[Any] | None = None
    audio: NDArray[Any] | None = None
    vision: NDArray[Any] | None = None
    labels: dict[str, float] = field(default_factory=dict)
