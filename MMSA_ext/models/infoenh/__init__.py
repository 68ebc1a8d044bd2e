"""InfoEnh, the plug-in for any host model (`module`), and how a host reads it out (`readout`)."""

from MMSA_ext.models.infoenh.config import InfoEnhConfig
from MMSA_ext.models.infoenh.module import InfoEnh, InfoEnhOutput
from MMSA_ext.models.infoenh.readout import InfoEnhHostConfig, TokenReadout, VectorReadouts

__all__ = [
    "InfoEnh",
    "InfoEnhConfig",
    "InfoEnhHostConfig",
    "InfoEnhOutput",
    "TokenReadout",
    "VectorReadouts",
]
