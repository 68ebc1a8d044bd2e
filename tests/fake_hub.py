"""A hub on this machine, that serves and takes folders and notes it; and ones that are none."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0" * 40


@dataclass
class Hub:
    """What is on the hub, and what was asked of it.

    Attributes:
        address: For `HF_ENDPOINT`.
        files: Content by repository and file name.
        fetched: Files that were downloaded, in order.
        requests: Every request's method and path.
        token: What may write; everybody may read.
        private: Repositories that are.
        gated: Repositories that are, for everybody.
        stored: Large files that were uploaded, by SHA-256.
    """

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    token: str = "hf_right"
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    stored: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, folder: Path, **more: bytes) -> None:
        """Put the files of a folder on the hub, and some more."""
        paths = (path for path in folder.rglob("*") if path.is_file())
        content = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        self.files[name] = content | {key.replace("__", "."): value for key, value in more.items()}


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    """A hub that answers as the real one does, as far as is needed to download and upload."""
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0].strip("/")
            served.requests.append(f"{self.command} {path}")
            if any(name in path for name in served.gated):
                self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
                return
            if path.startswith("api/models/"):
                self.describe(path.removeprefix("api/models/"))
                return
            name, _, rest = path.partition("/resolve/")
            content = served.files.get(name, {}).get(rest.partition("/")[2])
            if content is None:
                self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                return
            if self.command == "GET":
                served.fetched.append(rest.partition("/")[2])
            digest = hashlib.sha1(content).hexdigest()
            self.answer(200, content, {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT})

        def describe(self, path: str) -> None:
            name, revision = "/".join(path.split("/")[:2]), path.partition("/revision/")[2]
            files = served.files.get(name)
            if files is not None and revision not in ("", "main", COMMIT):
                self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
            if files is None:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif "/tree/" in path:
                entries = [
                    {"type": "file", "path": key, "size": len(value), "oid": "0" * 40}
                    for key, value in files.items()
                ]
                self.answer(200, json.dumps(entries).encode())
            else:
                siblings = [{"rfilename": key} for key in files]
                info = {
                    "_id": "0",
                    "id": name,
                    "modelId": name,
                    "sha": COMMIT,
                    "siblings": siblings,
                }
                info |= {"private": name in served.private, "tags": []}
                info |= {"downloads": 0, "likes": 0}
                self.answer(200, json.dumps(info).encode())

        def do_PUT(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            served.requests.append("PUT")
            served.stored[hashlib.sha256(content).hexdigest()] = content
            self.answer(200, b"")

        def do_POST(self) -> None:
            path = self.path.partition("?")[0].strip("/")
            served.requests.append(f"POST {path}")
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Authorization"] != f"Bearer {served.token}":
                self.answer(401, b"{}")
            elif path == "api/validate-yaml":  # of a card's first lines
                self.send({"errors": [], "warnings": []})
            elif path == "api/repos/create":
                self.create(json.loads(content))
            elif path.endswith("/info/lfs/objects/batch"):
                href = f"{served.address}/upload"
                objects = [
                    {**wanted, "actions": {"upload": {"href": href}}}
                    for wanted in json.loads(content)["objects"]
                ]
                self.send({"transfer": "basic", "objects": objects})
            elif "/preupload/" in path:
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith("safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(content)["files"]
                ]
                self.send({"files": modes})
            elif "/commit/" in path:
                name = path.removeprefix("api/models/").partition("/commit/")[0]
                for line in map(json.loads, content.splitlines()):
                    self.commit(served.files[name], line["key"], line["value"])
                self.send({"commitUrl": f"{served.address}/{name}", "commitOid": COMMIT})
            else:
                self.answer(404, b"{}")

        def create(self, asked: dict[str, Any]) -> None:
            name = f"{asked['organization']}/{asked['name']}"
            if name in served.files:
                self.send({"url": f"{served.address}/{name}"}, 409)
                return
            served.files[name] = {".gitattributes": b""}
            if asked.get("visibility") == "private":
                served.private.add(name)
            self.send({"url": f"{served.address}/{name}"})

        def commit(self, files: dict[str, bytes], key: str, value: dict[str, Any]) -> None:
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = served.stored[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]

        def send(self, content: Any, code: int = 200) -> None:
            self.answer(code, json.dumps(content).encode())

        def answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def no_hub(kind: str) -> Iterator[str]:
    """The address of a port that is `closed`, or that accepts and is `silent`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == "silent":
            listener.listen(100)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
