"""Problems of a configuration, in sentences."""

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from MMSA_ext.validation import explain


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

    name: str
    inner: Inner | None = None


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"name": "x", "nam": 1}, "nam: no such key; did you mean name?"),
        ({}, "name: is missing; add it to the configuration file or to config=."),
        ({"name": "x", "inner": {"widht": 2}}, "inner.widht: no such key; did you mean width?"),
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
