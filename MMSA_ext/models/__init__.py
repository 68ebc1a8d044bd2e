"""Models of this package; importing it registers them."""

from MMSA_ext.models import confede, dashfusion, infoenh_hosts, text_only

__all__ = ["confede", "dashfusion", "infoenh_hosts", "text_only"]
