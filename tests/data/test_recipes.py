"""Recipes: what is one, when two make the same features, and how they come with a file."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MMSA_ext.data.demo import demo_features
from MMSA_ext.data.features import check_features, read_features, write_features
from MMSA_ext.data.recipes import compared, described, problems
from MMSA_ext.errors import FeatureFileError

MINILM = {"name": "minilm", "version": "0.1.0", "max_length": 50}
OPENSMILE = {"name": "opensmile", "version": "2.5.0", "feature_set": "eGeMAPSv02", "rates": [1, 2]}
RECIPE = {"text": MINILM, "audio": OPENSMILE}

Data = dict[str, Any]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": [value]}
    return value


BROKEN = {
    "is a list; write a dict": [MINILM],
    "is a str; write a dict": "minilm",
    "'adio' is no modality; did you mean audio": {"adio": OPENSMILE},
    "1 is no modality; known: text, audio, vision": {1: OPENSMILE},
    "text is a str; write {'name': ..., 'version': ...}": {"text": "minilm"},
    "text has no texts 'name' and 'version'": {"text": {}},
    "audio has no texts": {"audio": {"name": "opensmile", "version": 2.5}},
    "audio has no text": {"audio": {"name": "", "version": "1"}},
    "vision has no texts": {"vision": {"name": "a\nb", "version": "1"}},
    "vision has parameters that JSON cannot say": {"vision": OPENSMILE | {"rate": math.nan}},
    "audio has parameters": {"audio": OPENSMILE | {"rates": (1, 2)}},
    "audio has param": {"audio": OPENSMILE | {"mean": np.zeros(2)}},
    "audio has para": {"audio": OPENSMILE | {1: "one"}},
    "audio has par": {"audio": OPENSMILE | {"folder": "half \ud83d"}},
    "audio has pa": {"audio": OPENSMILE | {"deep": nested(5)}},
    "audio has p": {"audio": OPENSMILE | {"deep": nested(5000)}},
    "audio has ": {"audio": OPENSMILE | {"mean": [0.5] * 10_000}},
}


def test_a_sound_recipe() -> None:
    assert problems({}) == problems(RECIPE) == []
    assert problems({"audio": OPENSMILE | {"deep": nested(2), "none": None, "on": True}}) == []
    assert problems(json.loads(json.dumps(RECIPE))) == []


@pytest.mark.parametrize("said", BROKEN)
def test_a_broken_recipe_is_one_sentence(said: str) -> None:
    (problem,) = problems(BROKEN[said])
    assert problem.startswith(said)
    assert len(problem) < 200
    problem.encode()


def test_every_modality_is_looked_at() -> None:
    assert len(problems({"text": {}, "audio": OPENSMILE, "vision": []})) == 2


def test_a_recipe_in_a_line() -> None:
    assert described(MINILM) == "minilm 0.1.0 (max_length 50)"
    assert described({"name": "a", "version": "1"}) == "a 1"
    assert described(None) == described({}) == "unknown"
    scaled = {"name": "unknown", "version": "", "standardised": "ab"}
    assert described(scaled) == "unknown (standardised ab)"
    assert len(described(OPENSMILE | {"more": "x" * 5000})) == 300


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "same"),
        ({"rates": [1.0, 2.0]}, "same"),
        ({"version": "2.6.0"}, "doubtful"),
        ({"max_length": 9}, "doubtful"),
        ({"name": "covarep"}, "other"),
        ({"feature_set": "ComParE"}, "other"),
        ({"rates": [2, 1]}, "other"),
        ({"standardised": "ab"}, "other"),
        ({"feature_set": "ComParE", "version": "3"}, "other"),
    ],
)
def test_what_is_another_recipe(change: dict[str, Any], verdict: str) -> None:
    for pair in ((OPENSMILE, OPENSMILE | change), (OPENSMILE | change, OPENSMILE)):
        trained, found = ({"text": MINILM, "audio": made} for made in pair)
        other, doubtful = compared(trained, found)
        assert ["same", "doubtful", "other"][2 * len(other) + len(doubtful)] == verdict
        for line in other + doubtful:
            assert line.startswith(f"audio is {described(pair[1])}, ")
            assert line.endswith(f"training it was {described(pair[0])}")


def test_what_is_unknown() -> None:
    assert compared({}, RECIPE) == compared({}, {}) == ([], [])
    assert compared(RECIPE, {}) == (
        [],
        [
            "text is unknown, in training it was minilm 0.1.0 (max_length 50)",
            f"audio is unknown, in training it was {described(OPENSMILE)}",
        ],
    )


def test_modalities_that_do_not_count() -> None:
    other = {"text": MINILM | {"name": "bert"}, "audio": OPENSMILE}
    assert len(compared(RECIPE, other)[0]) == 1
    assert compared(RECIPE, other, ["audio", "vision"]) == ([], [])


class TestFiles:
    def test_a_file_says_who_made_it(self, tmp_path: Path, feature_data: Data) -> None:
        path = write_features(tmp_path / "data.pkl", feature_data | {"recipe": RECIPE})
        assert read_features(path, "mosi").recipe == RECIPE
        shown = check_features(path, "mosi").render()
        lines = [f"text: {described(MINILM)}", f"audio: {described(OPENSMILE)}", "vision: unknown"]
        assert f"Made by       {(chr(10) + 14 * ' ').join(lines)}\n" in shown

    def test_a_file_that_does_not(self, feature_file: Path) -> None:
        assert read_features(feature_file).recipe == {}
        assert (
            "Made by       unknown, the file has no recipe" in check_features(feature_file).render()
        )

    def test_before_there_were_recipes(self, tmp_path: Path, feature_data: Data) -> None:
        data = feature_data | {"text_encoder": "minilm", "recipe": {"audio": OPENSMILE}}
        recipe = read_features(write_features(tmp_path / "data.pkl", data)).recipe
        assert recipe == {"text": {"name": "minilm", "version": ""}, "audio": OPENSMILE}
        other, doubtful = compared({"text": MINILM}, recipe)
        assert (other, len(doubtful)) == ([], 1)

    @pytest.mark.parametrize("said", sorted(BROKEN.keys() - {"audio has p"}))  # pickle gives up
    def test_a_broken_one_is_a_problem(self, tmp_path: Path, feature_data: Data, said: str) -> None:
        path = write_features(tmp_path / "data.pkl", feature_data | {"recipe": BROKEN[said]})
        with pytest.raises(FeatureFileError) as error:
            read_features(path)
        assert "data.pkl" in str(error.value)

    def test_each_file_brings_its_modality(self, tmp_path: Path, feature_data: Data) -> None:
        base = write_features(tmp_path / "base.pkl", feature_data | {"recipe": RECIPE})
        vision = {"name": "openface", "version": "2.2"}
        recipe = {"audio": MINILM, "vision": vision}
        other = write_features(tmp_path / "other.pkl", feature_data | {"recipe": recipe})
        plain = write_features(tmp_path / "plain.pkl", feature_data)
        assert read_features(base, feature_V=other).recipe == RECIPE | {"vision": vision}
        assert read_features(base, feature_A=plain).recipe == {"text": MINILM}
        three = read_features(None, feature_T=base, feature_A=plain, feature_V=other)
        assert three.recipe == {"text": MINILM, "vision": vision}
        broken = write_features(tmp_path / "broken.pkl", feature_data | {"recipe": {"text": 1}})
        (problem,) = check_features(base, feature_A=broken).problems
        assert problem.startswith(f"recipe of {broken} text is a int; write")

    def test_a_single_sample_has_one(self, tmp_path: Path, feature_data: Data) -> None:
        test = feature_data["test"]
        sample = {key: test[key][0] for key in ("text_bert", "audio", "vision")}
        path = write_features(tmp_path / "sample.pkl", sample | {"recipe": RECIPE})
        assert read_features(path, require_labels=False).recipe == RECIPE

    def test_generated_data_have_one(self, tmp_path: Path) -> None:
        recipes = [read_features(demo_features(d, tmp_path)).recipe for d in ("mosi", "sims")]
        assert all(recipe.keys() == {"text", "audio", "vision"} for recipe in recipes)
        assert recipes[0]["text"]["tokenizer"] == "minilm"
        assert len(compared(*recipes)[0]) == 3
