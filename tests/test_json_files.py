"""JSON that users write, read strictly."""

import os
from pathlib import Path

import pytest

from MMSA_ext.errors import ConfigError
from MMSA_ext.json_files import check_depth, json_or_text, parse_json, read_json


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf_8_with_and_without_a_mark(tmp_path, encoding):
    path = tmp_path / "x.json"
    path.write_text('{"title": "ä", "n": [1, 2.5, null]}', encoding=encoding)
    assert read_json(path) == {"title": "ä", "n": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1}'.encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        ('{"a": 1}'.encode("utf-16-be"), "NUL characters, as UTF-16 has"),
        ('{"a": 1}'.encode("utf-32"), "it is UTF-32"),
        ('{\n"a": "ä"}'.encode("latin-1"), "line 2 .* perhaps Latin-1; save it as UTF-8"),
        (b"", "not valid JSON at line 1"),
        (b'{"a": 1,}', "not valid JSON at line 1, column"),
        (b"[1]", "holds no JSON object"),
        (b'{"a": {"k": 1, "b": 2, "k": 3}}', "the key 'k' is there twice"),
        (b'{"a": NaN}', "NaN is no number in JSON"),
        (b'{"a": -Infinity}', "-Infinity is no number in JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON: .*digits"),
        (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "nested more than 100 deep"),
        (b'{"a": ' + b"[" * 200_000, "nested more than 100 deep"),
    ],
)
def test_what_is_refused(tmp_path, content, said):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"(?s)x\.json: .*{said}"):
        read_json(path)


def test_no_file_is_waited_for(tmp_path):
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    for path, said in (
        (pipe, "is a pipe"),
        (tmp_path, "is a folder"),
        (tmp_path / "none.json", "no such configuration file"),
        (Path("/dev/zero"), "is a device"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_json(path)


def test_values_on_the_command_line_are_json_where_they_parse():
    texts = ("1e3", "[1]", "true", "None", "bert-base", "{a}", "")
    assert [json_or_text(t, "x") for t in texts] == [
        1000.0, [1], True, "None", "bert-base", "{a}", "",
    ]  # fmt: skip
    for text, said in (("NaN", "NaN"), ("[" * 9999, "deep"), ('{"a":1,"a":2}', "twice")):
        with pytest.raises(ConfigError, match=rf"--set x: .*{said}"):
            json_or_text(text, "--set x")


def test_a_place_is_named():
    with pytest.raises(ConfigError, match="--set x: not valid JSON at line 2, column 3"):
        parse_json("[1,\n  a]", "--set x")


def test_values_that_hold_themselves_are_too_deep():
    circular: dict = {"a": 1}
    circular["b"] = circular["c"] = [circular]
    with pytest.raises(ConfigError, match="config: is nested more than"):
        check_depth(circular, "config")
    check_depth({"a": [{"b": [1, 2]}]}, "config")
