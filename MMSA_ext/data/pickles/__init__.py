"""Pickles read as data, by an interpreter that runs nothing and believes nothing."""
