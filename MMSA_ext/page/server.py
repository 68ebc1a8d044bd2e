"""The server of the page: gradio's page at `/`, and the same as JSON at `/score`."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastapi
import uvicorn
from fastapi import HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.datastructures import FormData
from fastapi.responses import JSONResponse

from MMSA_ext.errors import ConfigError, MMSAExtError, suggest
from MMSA_ext.files import reason
from MMSA_ext.page.checkpoints import UnknownCheckpointError
from MMSA_ext.page.desk import Desk, unforeseen, without_paths
from MMSA_ext.page.reading import Reading
from MMSA_ext.paths import shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["LARGEST_MIB", "application", "listening", "serve"]

logger = logging.getLogger("MMSA")

LARGEST_MIB = 256  # of an upload
_FIELDS = ("file", "text", "subtitles", "checkpoint")
_LONGEST_TEXT = 1 << 16  # bytes of a field
_GRACE_SECONDS = 2  # that open connections have at the end
# Nothing is loaded from elsewhere, whatever a library of the page would like to.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-src 'none'; object-src 'none'; base-uri 'self'; form-action 'self'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def application(desk: Desk, folder: Path, **page: Any) -> fastapi.FastAPI:
    """The whole server.

    `POST /score` takes a form (`multipart/form-data`) with a video or audio file `file`, or a
    `text`, or both; `subtitles`, an `.srt` or `.vtt` file; and `checkpoint`, a listed name. It
    answers with `VideoScore.as_json` and the name of the checkpoint; or with `{"error": sentence}`
    and 400 (another form), 404 (no such checkpoint), 413 (more than `LARGEST_MIB`) or 422 (what was
    sent cannot be scored).

    Args:
        desk: What scores.
        folder: For uploads; what a client sends is deleted when it is scored, or leaves.
        page: Arguments of `layout.build`.
    """
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_OwnSourcesOnly)
    for status in (400, 413):
        app.add_exception_handler(status, _refusal)
    turn = asyncio.Lock()  # a waiting request occupies no thread

    @app.post("/score")
    async def score(request: Request) -> JSONResponse:
        async with _form(request) as form:
            scratch = Path(tempfile.mkdtemp(dir=folder))
            try:
                async with turn:
                    return await run_in_threadpool(_answer, desk, form, scratch)
            except asyncio.CancelledError:  # the server ends
                return _error(503, "the page is being closed; send this again once it is there.")
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    _mount(app, desk, folder, **page)
    return app


def _mount(app: fastapi.FastAPI, desk: Desk, folder: Path, **page: Any) -> None:
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # gradio asks for it while it builds the page
    import gradio

    from MMSA_ext.page import layout
    from MMSA_ext.page.drawing import style

    gradio.mount_gradio_app(
        app,
        layout.build(desk, folder, **page),
        path="/",
        css=style(),
        theme=layout.theme(),
        footer_links=[],
        run_history=False,
        show_error=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        max_file_size=LARGEST_MIB << 20,
    )


@asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    """The form of a request, read no further than it may be large; then its files are closed."""
    most = LARGEST_MIB << 20
    too_large = HTTPException(
        413, f"what was sent has more than {LARGEST_MIB} MiB; send a smaller file, or a part of it."
    )
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > most:
        raise too_large
    received = 0

    async def receive() -> Any:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > most:
            raise too_large
        return message

    limited = Request(request.scope, receive)
    form = await limited.form(max_files=2, max_fields=4, max_part_size=_LONGEST_TEXT)
    try:
        yield form
    finally:
        await limited.close()


def _answer(desk: Desk, form: FormData, scratch: Path) -> JSONResponse:
    """Score what a form holds; called in a thread, one at a time."""
    if problem := _problem(form):
        return _error(400, problem)
    text, model = (str(form[name]) if name in form else None for name in ("text", "checkpoint"))
    names: dict[Path, str] = {}
    try:
        if "file" not in form:
            reading = desk.sentence(model, text or "", explain=False)
        else:
            path = _kept(form["file"], scratch / "file", names)
            subtitles = None
            if "subtitles" in form:
                subtitles = _kept(form["subtitles"], scratch / "subtitles", names)
            reading = desk.video(model, path, text=text, subtitles=subtitles, explain=False)
    except UnknownCheckpointError as error:
        return _error(404, desk.said(error))
    except MMSAExtError as error:
        return _error(422, desk.said(error, names))
    except Exception as error:
        logger.exception("/score")
        return _error(500, unforeseen(error))
    return JSONResponse(_as_json(without_paths(reading, names), next(iter(names.values()), None)))


def _problem(form: FormData) -> str:
    """Why a form cannot be served, a sentence; empty if it can."""
    for name, value in form.multi_items():
        if name not in _FIELDS:
            return f"there is no field {shown(name)!r}; {suggest(name, list(_FIELDS))}"
        if isinstance(value, str) == (name in ("file", "subtitles")):
            return f"the field {name!r} is {'a file' if name[0] in 'tc' else 'no file'}; " + (
                "send a text." if name[0] in "tc" else f"send one, such as `-F {name}=@FILE`."
            )
        if len(form.getlist(name)) > 1:
            return f"the field {name!r} is there twice; send it once."
    if "file" not in form and "text" not in form:
        return "there is neither a 'file' nor a 'text'; send one of them, as multipart/form-data."
    if "file" not in form and "subtitles" in form:
        return "'subtitles' are of a 'file'; send it too, or a 'text' in place of them."
    if "text" in form and "subtitles" in form:
        return "'text' and 'subtitles' both say what is said; leave one out."
    return ""


def _kept(upload: Any, path: Path, names: dict[Path, str]) -> Path:
    """An upload as a file; the client's name is what messages call it, and no part of a path."""
    name = shown(Path((upload.filename or "").replace("\\", "/")).name) or path.name
    suffix = Path(name).suffix.lower()
    path = path.with_suffix(suffix) if suffix in (".srt", ".vtt") else path
    with path.open("wb") as file:
        shutil.copyfileobj(upload.file, file)
    names[path] = name
    return path


def _as_json(reading: Reading, name: str | None) -> dict[str, Any]:
    scored = reading.score.as_json() | {"video": name}
    return {"checkpoint": reading.model, "model": reading.architecture} | scored


def _error(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)


def _refusal(_: Request, error: Exception) -> JSONResponse:
    detail, status = getattr(error, "detail", ""), getattr(error, "status_code", 400)
    return _error(status, str(detail))


class _OwnSourcesOnly:
    """Tells browsers that the page loads from this server alone; an ASGI middleware."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        await self.app(scope, receive, with_policy)


def listening(host: str, port: int) -> socket.socket:
    """A socket that clients can connect to; taken first, so that a busy port costs no time.

    Raises:
        ConfigError: The port is taken, or not to be had; or the address is none of this machine.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except socket.gaierror:
        raise ConfigError(f"--host {shown(host)}: no address of that name is known.") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {shown(host)} is taken by another program; end it, or choose "
                "another one by --port (0 is any that is free)."
            ) from None
        raise ConfigError(
            f"--host {shown(host)} --port {port}: cannot be listened to ({reason(error)}); choose "
            "an address of this machine, and a port from 1024 on."
        ) from None


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def _is_no_end(record: logging.LogRecord) -> bool:
    """Whether a record of uvicorn says more than that a page was open when the server ended."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, asyncio.CancelledError) or "graceful shutdown" in str(record.msg))


def serve(app: fastapi.FastAPI, sock: socket.socket, ready: Callable[[], None]) -> None:
    """Serve at a socket until a signal to end comes; `ready` is called once the page answers."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_SECONDS
    )
    logging.getLogger("uvicorn.error").addFilter(_is_no_end)
    _Server(config, ready).run([sock])
