"""What a decoder of pocketsphinx hears."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from MMSA_ext.video.speech import Stretch, as_pcm

if TYPE_CHECKING:
    from MMSA_ext.video.contract import Samples

__all__ = ["heard"]

_FRAMES = 100  # a second
_VARIANT = re.compile(r"\(\d+\)$")  # how a word is pronounced, as in `really(2)`
_NO_WORD = ("<", "[", "+")  # silence and noise


def heard(decoder: Any, samples: Samples) -> list[tuple[str, Stretch]]:
    """Words, and seconds from the start of the sound; none where its search finds no way through.

    Args:
        decoder: A `pocketsphinx.Decoder` for 16,000 samples a second.
        samples: (n,) at that rate.
    """
    decoder.start_utt()
    decoder.process_raw(as_pcm(samples), full_utt=True)
    decoder.end_utt()
    return [
        (
            _VARIANT.sub("", one.word),
            Stretch(one.start_frame / _FRAMES, (one.end_frame + 1) / _FRAMES),
        )
        for one in decoder.seg() or ()
        if not one.word.startswith(_NO_WORD)
    ]
