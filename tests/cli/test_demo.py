"""The command that opens the page, up to where it would."""

import socket
import sys

import pytest
from typer.testing import CliRunner

from MMSA_ext.cli import app


def test_it_is_told_from_the_demo_of_the_terminal():
    said = " ".join(CliRunner().invoke(app, ["demo", "--help"]).output.split())
    assert "A page in your browser" in said
    assert "scripts/demo.sh" in said
    assert "127.0.0.1" in said
    assert "demo A page in your browser" in " ".join(
        CliRunner().invoke(app, ["--help"]).output.replace("│", " ").split()
    )


def test_without_gradio_the_line_that_installs_it(typed, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    ended, said = typed("mmsa-ext demo")
    assert ended == 2
    assert said.startswith("error: the page needs gradio, which is not installed: ")
    assert "[demo]" in said


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("no.pth", "no.pth: no such checkpoint"),
        ("owner/model", "mmsa-ext pull owner/model"),
        ("--models no/folder", "no/folder: no such folder."),
        ("--port 70000", "65535"),
    ],
)
def test_what_cannot_be_is_said_at_once(typed, given, wanted):
    ended, said = typed(f"mmsa-ext demo {given}")
    assert ended == 2
    assert wanted in said


def test_a_port_that_is_taken_is_one_sentence(typed, tmp_path):
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended, said = typed(f"mmsa-ext demo --port {port} --models {tmp_path}")
    assert ended == 2
    assert said == (
        f"error: port {port} of 127.0.0.1 is taken by another program; end it, or choose another "
        "one by --port (0 is any that is free).\n"
    )
