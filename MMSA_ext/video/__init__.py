"""From a video to features: sound and pictures, extractors by name, words with their times.

A clip (`media`) is given to extractors (`extractors`) and its words are found (`words`);
`extraction` does both with a corpus and writes a feature file.
"""

from MMSA_ext.video.extraction import ExtractionReport, extract

__all__ = ["ExtractionReport", "extract"]
