"""A hub on this machine, that serves folders and notes what is fetched; and ones that are none."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0" * 40


@dataclass
class Hub:
    """What is on the hub, and what was asked of it.

    Attributes:
        address: For `HF_ENDPOINT`.
        files: Content by repository and file name.
        fetched: Files that were downloaded, in order.
        requests: Every request's method and path.
    """

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def add(self, name: str, folder: Path, **more: bytes) -> None:
        """Put the files of a folder on the hub, and some more."""
        content = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.files[name] = content | {key.replace("__", "."): value for key, value in more.items()}


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    """A hub that answers as the real one does, as far as is needed to download."""
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0].strip("/")
            served.requests.append(f"{self.command} {path}")
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
            name = "/".join(path.split("/")[:2])
            files = served.files.get(name)
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
                info |= {"private": False, "tags": [], "downloads": 0, "likes": 0}
                self.answer(200, json.dumps(info).encode())

        def answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
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
