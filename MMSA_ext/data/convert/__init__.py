"""Converters: other forms of features into MMSA's layout, one file a form, found by its name.

A form is a module with `read(source, options, report)`, which yields `Sample`s, and a line in
`forms`. Samples are checked and counted one by one; a writer makes a feature file or shards of
them.
"""

from MMSA_ext.data.convert.conversion import convert
from MMSA_ext.data.convert.report import ConversionReport

__all__ = ["ConversionReport", "convert"]
