"""A CSV of utterances: how it is written, what it lacks, who is in which split."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MMSA_ext.data.convert.splits import assigned
from MMSA_ext.data.features import safe_load
from MMSA_ext.errors import FeatureFileError
from tests.data.convert import sources
from tests.data.convert.test_forms import FOLDERS, converted


def write(folder: Path, text: str, encoding: str = "utf-8") -> None:
    (folder / "t.csv").write_text(text, encoding=encoding, newline="")


def texts(folder: Path, **options: Any) -> dict[str, Any]:
    converted(folder, "t.csv", **options)
    return safe_load(folder / "out.pkl")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_ways_to_write_it(encoding: str, separator: str, tmp_path: Path) -> None:
    rows = sources.utterances()
    rows[0]["text"] = 'said "so",\nthen; left'
    rows[1]["text"] = "今天\u00a0天气 é"
    rows[2]["text"] = "NA"
    sources.write_csv(tmp_path / "t.csv", rows, separator=separator, encoding=encoding)
    train = texts(tmp_path)["train"]
    assert train["raw_text"] == [row["text"] for row in rows if row["split"] == "train"]
    assert not {"audio", "vision", "audio_lengths"} & set(train), "no modality that is absent"


def test_decimal_commas_and_blanks_around_names(tmp_path: Path) -> None:
    write(tmp_path, "id ; text; label;split\na;x;-1,5;train\nb;y;2;dev\nc;z;.5;test\n")
    data = texts(tmp_path)
    assert [float(data[name]["regression_labels"][0]) for name in sources.SPLITS] == [-1.5, 2, 0.5]


def test_usual_names_are_found_and_said(tmp_path: Path) -> None:
    write(
        tmp_path,
        "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"
        "v,0001,a,0.5,1,0,-1,Positive,train\nv,0002,b,-1,1,0,0,Negative,valid\n"
        "w,0001,c,0,0,0,0,Neutral,test\n",
    )
    report = converted(tmp_path, "t.csv", pretrained="minilm")
    data = safe_load(tmp_path / "out.pkl")
    assert data["train"]["id"] == ["v$_$0001"]
    assert data["train"]["regression_labels_V"].tolist() == [-1]
    said = report.render()
    assert "id is column video_id + clip_id" in said
    assert "split is column mode" in said
    assert "Columns not used: annotation" in said
    assert "-d sims" in said


def test_an_id_of_two_columns(tmp_path: Path) -> None:
    write(tmp_path, "film,part,text,label,split\na,1,x,1,train\na,2,y,2,train\n")
    assert texts(tmp_path, columns={"id": "film+part"})["train"]["id"] == ["a$_$1", "a$_$2"]


def test_columns_are_named(tmp_path: Path) -> None:
    write(tmp_path, "a,b,c,d\nx,hello,1,train\ny,bye,-1,train\n")
    columns = {"id": "a", "text": "b", "label": "c", "split": "d"}
    train = texts(tmp_path, columns=columns)["train"]
    assert (train["id"], train["raw_text"]) == (["x", "y"], ["hello", "bye"])
    numbered = texts(tmp_path, columns={"text": "b"}, shares=(1, 0, 0))["train"]
    assert numbered["id"] == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,text,label\na,x\n", r"3 columns, but not in 1 .*: 2 \(2\)"),
        ("id,text,label\na,x, and more,1\n", "fields that hold the separator ','"),
        ("id,text,text,label\na,x,y,1\n", "'text' twice"),
        ('id,text,label\na,"x,1\nb,y,2\n', "unexpected end of data"),
        ("id,text,label\n", "no rows"),
        ("id,said,label\na,x,1\n", "no column 'text'"),
    ],
)
def test_what_is_no_table(text: str, said: str, tmp_path: Path) -> None:
    write(tmp_path, text)
    with pytest.raises(FeatureFileError, match=said):
        converted(tmp_path, "t.csv")


def test_another_encoding_is_said(tmp_path: Path) -> None:
    write(tmp_path, "id,text,label\na,é,1\n", "latin-1")
    with pytest.raises(FeatureFileError, match="no text in UTF-8"):
        converted(tmp_path, "t.csv")


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        "id,text,label,split\na,x,1,train\na,y,2,test\n,z,1,train\nb,x,True,train\n"
        "c,x,,train\nd,x,inf,train\ne,x,1,holdout\n",
    )
    with pytest.raises(FeatureFileError) as error:
        converted(tmp_path, "t.csv")
    for said in (
        r"id is empty \(1\): row 3",
        r"label is no number in column 'label' \(1\): row 4 \(id 'b'\) has 'True'",
        r"split is none \(1\): row 7 \(id 'e'\) has 'holdout'",
        r"M is missing \(column 'label'\) \(1\): id 'c'",
        r"id occurs more than once \(1\): 'a' in train and test",
        r"label M is infinite \(1\): id 'd'",
    ):
        assert error.match(said)
    assert not (tmp_path / "out.pkl").exists()


def test_incomplete_samples_are_left_out_on_request(tmp_path: Path) -> None:
    sources.table(tmp_path)
    (tmp_path / "audio" / "train3.npy").unlink()
    (tmp_path / "vision" / "test0.npy").unlink()
    with pytest.raises(FeatureFileError) as error:
        converted(tmp_path, "utterances.csv", **FOLDERS)
    assert error.match("audio is missing .*'train3'")
    assert error.match("vision is missing .*'test0'")
    report = converted(tmp_path, "utterances.csv", **FOLDERS, incomplete="drop")
    assert report.samples == {"train": 11, "valid": 4, "test": 3}
    assert "Left out, without audio (1): id 'train3'" in report.render()


def test_without_labels_it_can_be_scored(tmp_path: Path) -> None:
    write(tmp_path, "id,text,label,split\na,x,,test\nb,,,test\n")
    report = converted(tmp_path, "t.csv")
    assert "regression_labels" not in safe_load(tmp_path / "out.pkl")["test"]
    said = report.render()
    assert "no labels" in said
    assert "no split" not in said, "which matters to training alone"
    assert "Empty texts (1): id 'b'" in said
    assert "mmsa-ext encode-text" in said
    assert "test   2        none" in said


class TestSplits:
    def test_what_is_to_be_scored_needs_none(self, tmp_path: Path) -> None:
        write(tmp_path, "id,text,rating\n" + "".join(f"a{i},x,{i}\n" for i in range(10)))
        report = converted(tmp_path, "t.csv", pretrained="minilm")
        assert report.samples == {"test": 10}
        assert "--column label=NAME" in report.render()
        assert report.next_command().startswith("mmsa-ext predict CHECKPOINT")
        rated = {"columns": {"label": "rating"}}
        report = converted(tmp_path, "t.csv", pretrained="minilm", **rated)
        assert report.samples.keys() == {"train", "valid", "test"}
        assert "-d NAME --dataset-file DEFINITION.json" in report.next_command()

    def test_at_random_by_seed_and_shares(self, tmp_path: Path) -> None:
        sources.table(tmp_path)
        options = {"columns": {"split": ""}, "seed": 7, "shares": (0.5, 0.25, 0.25)}
        report = converted(tmp_path, "utterances.csv", **options)
        assert report.samples == {"train": 10, "valid": 5, "test": 5}
        assert "made at random with seed 7, shares 0.5, 0.25, 0.25" in report.render()

    def test_given_splits_are_not_made_again(self, tmp_path: Path) -> None:
        sources.table(tmp_path)
        with pytest.raises(FeatureFileError, match="the source has splits"):
            converted(tmp_path, "utterances.csv", seed=7)

    def test_no_group_is_in_two(self, tmp_path: Path) -> None:
        rows = sources.table(tmp_path)
        speaker = {row["id"]: row["speaker"] for row in rows}
        converted(tmp_path, "utterances.csv", group="speaker", columns={"split": ""})
        data = safe_load(tmp_path / "out.pkl")
        groups = [{speaker[name] for name in data[split]["id"]} for split in sources.SPLITS]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 7
        assert len(data["train"]["id"]) in range(11, 17)

    def test_blanks_around_a_group_make_no_other(self, tmp_path: Path) -> None:
        rows = "".join(f"a{i},x,{i},{'train' if i else 'test'},s{' ' * i}\n" for i in range(2))
        write(tmp_path, f"id,text,label,split,speaker\n{rows}")
        with pytest.raises(FeatureFileError, match=r"'speaker' is in two splits \(1\): 's'"):
            converted(tmp_path, "t.csv", group="speaker")

    def test_a_group_in_two_given_splits_is_refused(self, tmp_path: Path) -> None:
        sources.table(tmp_path)
        with pytest.raises(FeatureFileError, match="'speaker' is in two splits"):
            converted(tmp_path, "utterances.csv", group="speaker")

    def test_order_of_rows_does_not_matter(self) -> None:
        names = [f"s{i}" for i in range(50)]
        found = dict(zip(names, assigned(names, 3, (0.6, 0.2, 0.2)), strict=True))
        other = assigned(names[::-1], 3, (0.6, 0.2, 0.2))
        assert found == dict(zip(names[::-1], other, strict=True))
        assert found != dict(zip(names, assigned(names, 4, (0.6, 0.2, 0.2)), strict=True))
        assert np.unique(list(found.values()), return_counts=True)[1].tolist() == [10, 30, 10]
