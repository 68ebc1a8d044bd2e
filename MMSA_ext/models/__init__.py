"""Models of this package; importing it registers them."""

from MMSA_ext.models import dashfusion, text_only

__all__ = ["dashfusion", "text_only"]
