"""The same as JSON, and what every answer says of where the page may load from."""

import json
import socket
import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from MMSA_ext.errors import ConfigError
from MMSA_ext.page import server


def post(client, files=None, **fields):
    answer = client.post("/score", data=fields, files=files)
    return answer.status_code, answer.json()


def test_a_sentence(client, desk):
    status, found = post(client, text="word3 word4", checkpoint="text_only")
    assert status == 200
    assert (found["checkpoint"], found["model"], found["video"]) == ("text_only", "text_only", None)
    want = desk.sentence("text_only", "word3 word4").score.prediction
    assert found["prediction"] == pytest.approx(want, abs=1e-6)
    assert [one["text"] for one in found["utterances"]] == ["word3 word4"]


def test_a_video_and_what_is_said_in_it(client, video, uploads):
    files = {"file": ("../../etc/мой клип.mp4", video.read_bytes())}
    status, found = post(client, files, checkpoint="dashfusion", text="word3")
    assert status == 200
    assert (found["video"], found["duration"]) == ("мой клип.mp4", pytest.approx(0.6, abs=0.05))
    assert found["utterances"][0]["text_source"] == "given"
    subtitles = b"1\n00:00:00,000 --> 00:00:00,500\nword9\n"
    status, found = post(client, files | {"subtitles": ("a.SRT", subtitles)})
    assert status == 200
    assert found["utterances"][0]["text"] == "word9"
    assert not [path for path in uploads.rglob("*") if path.is_file()]


def test_nothing_that_is_missing_is_nan(client, video):
    status, found = post(client, {"file": ("a", video.read_bytes())}, checkpoint="dashfusion")
    assert status == 200
    assert "text" in found["utterances"][0]["missing"]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("name", ["../dashfusion", "/etc/passwd", "text_only.pth", "", "ü"])
def test_a_checkpoint_is_a_listed_name(client, name):
    status, found = post(client, text="word3", checkpoint=name)
    assert status == 404
    assert found["error"].startswith(f"there is no model {name!r}; ")


@pytest.mark.parametrize(
    ("files", "fields", "said"),
    [
        (None, {}, "there is neither a 'file' nor a 'text'"),
        (None, {"txt": "a"}, "there is no field 'txt'; did you mean text"),
        (None, {"file": "a"}, "the field 'file' is no file; send one"),
        ({"text": ("a", b"b")}, {}, "the field 'text' is a file; send a text"),
        ({"subtitles": ("a.srt", b"b")}, {"text": "a"}, "'subtitles' are of a 'file'"),
        (None, {"text": ["a", "b"]}, "the field 'text' is there twice"),
    ],
)
def test_another_form(client, files, fields, said):
    status, found = post(client, files, **fields)
    assert status == 400
    assert found["error"].startswith(said)


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "a.mp4: is empty"), (b"no video" * 99, "a.mp4: is no video")]
)
def test_what_is_no_video(client, content, said, uploads):
    status, found = post(client, {"file": ("a.mp4", content)}, text="word3")
    assert status == 422
    assert found["error"].startswith(said)
    assert str(uploads) not in found["error"]


@pytest.mark.parametrize("told", [True, False])
def test_what_is_too_large_is_not_read_to_its_end(client, monkeypatch, uploads, told):
    monkeypatch.setattr(server, "LARGEST_MIB", 1)
    sent = []

    def body():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(64):
            sent.append(1)
            yield bytes(1 << 16)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post(
        "/score", content=body(), headers=headers | ({"Content-Length": "4194400"} if told else {})
    )
    assert answer.status_code == 413
    assert answer.json()["error"].startswith("what was sent has more than 1 MiB")
    assert not [path for path in uploads.rglob("*") if path.is_file()]


def test_an_error_of_our_own_is_a_sentence_too(client, desk, monkeypatch, caplog):
    monkeypatch.setattr(desk, "sentence", lambda *_, **__: 1 / 0)
    status, found = post(client, text="word3")
    assert status == 500
    assert found["error"].startswith("An error that nobody foresaw (ZeroDivisionError)")
    assert "Traceback" in caplog.text


def test_the_page_loads_from_here_alone(client):
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    config = client.get("/config").json()
    assert not config["analytics_enabled"]
    assert client.get("/docs").status_code == 404  # FastAPI's loads from elsewhere


def test_the_server_asks_nobody(desk, tmp_path, monkeypatch):
    """Nor does gradio, which would ask for its newest version."""
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: asked.append(host))
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    with TestClient(server.application(desk, tmp_path)) as client:
        assert client.get("/").status_code == 200
        assert post(client, text="word3", checkpoint="text_only")[0] == 200
    for thread in threading.enumerate():  # such questions are asked beside
        if thread.name.startswith("Thread-"):
            thread.join(1)
    assert asked == []


def test_files_of_this_machine_are_not_served(client, models):
    for path in (models / "text_only.pth", Path("/etc/passwd"), Path(__file__)):
        assert client.get(f"/gradio_api/file={path}").status_code == 403


@pytest.mark.parametrize(
    ("host", "said"), [("no.such.host.invalid", "no address"), ("192.0.2.1", "cannot be listened")]
)
def test_an_address_that_is_none_of_this_machine(host, said):
    with pytest.raises(ConfigError, match=said):
        server.listening(host, 0)


def test_other_versions_of_addresses():
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        with server.listening("::1", 0) as sock:
            assert sock.family == socket.AF_INET6
    except ConfigError:
        pytest.skip("no loopback address of IPv6 here")
