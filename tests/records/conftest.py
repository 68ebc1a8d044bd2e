"""The records of `tests.reporting`, for tests of storing them."""

from tests.reporting.conftest import make_diverged_record, make_record, predictions, records

__all__ = ["make_diverged_record", "make_record", "predictions", "records"]
