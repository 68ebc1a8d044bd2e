"""Problems of a configuration, in sentences."""

from typing import ClassVar

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from MMSA_ext.errors import ConfigError, suggest
from MMSA_ext.validation import distinct_seeds, explain, integer, whole_number


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    width: int = Field(4, ge=1)
    depth: int = 1

    @model_validator(mode="after")
    def _agree(self):
        if self.depth > self.width:
            raise ValueError("depth is larger than width")
        return self


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    renamed: ClassVar = {"breadth": "inner.width"}

    name: str
    inner: Inner | None = None


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"name": "x", "nam": 1}, "nam: no such key; did you mean name?"),
        ({}, "name: is missing; add it to the configuration file or to config=."),
        ({"name": "x", "inner": {"widht": 2}}, "inner.widht: no such key; did you mean width?"),
        ({"name": "x", "depth": 2}, "depth: no such key; did you mean inner.depth?"),
        ({"name": "x", "breadth": 2}, "breadth: no such key; did you mean inner.width?"),
        ({"name": "x", "inner": {"depth": 9}}, "inner: Value error, depth is larger than width"),
    ],
)
def test_each_problem_names_its_key_and_the_mend(values, line):
    with pytest.raises(ValidationError) as error:
        Outer.model_validate(values)
    assert explain(error.value, Outer) == [line]


def test_all_problems_are_told_below_the_users_key():
    with pytest.raises(ValidationError) as error:
        Inner.model_validate({"width": 0, "depht": 1})
    lines = explain(error.value, Inner, "outer.inner")
    assert lines[0].startswith("outer.inner.width: ")
    assert lines[0].endswith("(given: 0)")
    assert lines[1] == "outer.inner.depht: no such key; did you mean depth?"


def test_a_rule_over_all_keys_stands_alone():
    with pytest.raises(ValidationError) as error:
        Inner.model_validate({"depth": 9})
    assert explain(error.value, Inner) == ["Value error, depth is larger than width"]


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        (7, [7]),
        ([3, 2, 3], [3, 2]),
        (np.array([3, 2]), [3, 2]),
        (np.int64(3), [3]),
        (range(2), [0, 1]),
        ((2**32 - 1, 0), [2**32 - 1, 0]),
        ([], []),
        (np.array([]), []),
    ],
)
def test_seeds_are_integers_each_once(seeds, expected):
    assert distinct_seeds(seeds) == expected


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ("1111", "seeds is '1111'; give whole numbers, such as seeds="),
        (None, "seeds is None"),
        (1.5, "seeds is 1.5"),
        ({1: 2}, "seeds is {1: 2}"),
        (True, "seeds is True"),
        (["1111"], "'1111' is no seed"),
        ([1, True], "True is no seed"),
        ([1.0], "1.0 is no seed"),
        ([-1], "-1 is no seed; give whole numbers from 0 to 4294967295"),
        (-1, "-1 is no seed"),
        ([2**32], "4294967296 is no seed"),
        ([2**40], "is no seed"),
        ([None], "None is no seed"),
        ([[1]], r"\[1\] is no seed"),
        (np.array([[1, 2]]), "is no seed"),
        (np.array([1.0]), "is no seed"),
    ],
)
def test_what_is_no_seed(seeds, said):
    with pytest.raises(ConfigError, match=said):
        distinct_seeds(seeds)


def test_whole_numbers():
    assert whole_number("n", np.int32(4), 1) == 4
    for value in (0, -1, 1.5, "4", None, True, [4]):
        with pytest.raises(ConfigError, match=r"n is .*; give a whole number, 1 or more"):
            whole_number("n", value, 1)
    assert [integer(value) for value in (3, np.uint8(3), True, "3", 3.0)] == [
        3, 3, None, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("learning_rat", "did you mean learning_rate or learning_rate_bert?"),
        ("lr", "did you mean learning_rate or learning_rate_bert?"),
        ("bs", "did you mean batch_size?"),
        ("epochs", "did you mean num_epochs?"),
        ("my_key", "known: M, batch_size, learning_rate, learning_rate_bert, num_epochs."),
    ],
)
def test_abbreviations_and_parts_of_a_key_are_known(word, said):
    known = ["M", "batch_size", "learning_rate", "learning_rate_bert", "num_epochs"]
    assert suggest(word, known) == said
