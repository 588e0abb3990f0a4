"""Web server of the service: health, readiness, metrics, status page, and the REST API."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import Field

from medvit.config import Config
from medvit.errors import ConfigError, MedvitError
from medvit.service.api_token import ApiToken
from medvit.service.metrics import exposition
from medvit.service.options import WebConfig
from medvit.service.page import status_page
from medvit.service.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

log = logging.getLogger("medvit")

OPEN_PATHS = ("/health", "/ready")
"""Paths that need no token; their answers contain no study."""
START_S = 10.0
"""Seconds within which the web server must listen."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Headers of every answer: pages load nothing from elsewhere, and are not stored."""


class ExpectedStudy(Config):
    """Number of instances with which a study is complete."""

    study: str = Field(min_length=1, max_length=64)
    """StudyInstanceUID."""
    instances: int = Field(ge=1)


def make_app(service: Service, token: ApiToken) -> FastAPI:
    """Return the web application of a service."""
    from fastapi import FastAPI
    from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

    app = FastAPI(title="medvit serve", docs_url=None, redoc_url=None, openapi_url=None)

    async def guarded(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        changes = request.method not in ("GET", "HEAD")
        header = request.headers.get("authorization", "")
        if request.url.path not in OPEN_PATHS and not token.admits(header, only_bearer=changes):
            answer: Response = PlainTextResponse("give the token of the service", status_code=401)
            for scheme in ("Basic", "Bearer"):  # one header each: browsers do not find the second scheme of a header
                answer.headers.append("WWW-Authenticate", f'{scheme} realm="medvit"')
        else:
            answer = await call_next(request)
        answer.headers.update(HEADERS)
        return answer

    def explained(request: Request, error: Exception) -> Response:
        status = 409 if isinstance(error, ConfigError) else 503
        return JSONResponse({"detail": str(error)}, status_code=status)

    app.middleware("http")(guarded)
    app.add_exception_handler(MedvitError, explained)

    @app.get("/health")
    def health() -> Any:
        return JSONResponse({"alive": True})

    @app.get("/ready")
    def ready() -> Any:
        faults = service.faults()
        return JSONResponse({"ready": not faults, "faults": len(faults)}, status_code=503 if faults else 200)

    @app.get("/metrics")
    def metrics() -> Any:
        return Response(exposition(service), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/")
    def page() -> Any:
        service.audit.add("seen", what="status page")
        return HTMLResponse(status_page(service))

    _add_questions(app, service)
    _add_changes(app, service)
    return app


def _known(service: Service, name: str) -> dict[str, Any]:
    from fastapi import HTTPException

    found = service.overview.study(name)
    if found is None:
        raise HTTPException(404, "no study has this pseudonym")
    return found


def _add_questions(app: FastAPI, service: Service) -> None:
    """Add the part of the REST API that changes nothing."""

    @app.get("/api/state")
    def state() -> Any:
        return service.state()

    @app.get("/api/studies")
    def listed(limit: int = 100) -> Any:
        return service.overview.studies(max(1, min(limit, 10_000)))

    @app.get("/api/studies/{name}")
    def study(name: str) -> Any:
        found = _known(service, name)
        service.audit.add("seen", name, what="study")
        return found

    @app.get("/api/dead")
    def dead() -> Any:
        return service.overview.dead_letters()


def _add_changes(app: FastAPI, service: Service) -> None:
    """Add the part of the REST API that changes something."""
    from fastapi import HTTPException

    @app.post("/api/studies/{name}/{action}")
    def change(name: str, action: str) -> Any:
        actions = {
            "release": service.studies.release,
            "discard": service.studies.discard,
            "retry": service.queue.retry,
        }
        _known(service, name)
        if action not in actions:
            raise HTTPException(404, f"unknown action; expected one of {', '.join(actions)}")
        actions[action](name)
        return service.overview.study(name) or {"study": name, "state": "forgotten"}

    @app.post("/api/expect")
    def expect(wanted: ExpectedStudy) -> Any:
        service.studies.expect(wanted.study, wanted.instances)
        return {"instances": wanted.instances}

    @app.post("/api/models/reload")
    def reload() -> Any:
        return service.use_models(service.pins.reload)

    @app.post("/api/models/rollback")
    def roll_back() -> Any:
        return service.use_models(service.pins.roll_back)


class WebServer:
    """Web server in a thread of its own."""

    def __init__(self, app: FastAPI, options: WebConfig) -> None:
        import uvicorn

        self._options = options
        self.port = 0
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=options.listen,
                port=options.port,
                ssl_certfile=options.cert,
                ssl_keyfile=options.key,
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=100,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=2,
            )
        )
        for name in ("uvicorn", "uvicorn.error"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Return a context in which the server answers.

        Raises:
            ConfigError: If it cannot listen on its port, or the certificate cannot be read.
        """
        started = threading.Event()
        thread = threading.Thread(target=self._run, args=(started,), name="web", daemon=True)
        thread.start()
        started.wait(START_S)
        if not self.port:
            raise ConfigError(
                f"cannot listen on port {self._options.port} of {self._options.listen}; set web.port to a free port, "
                "and check web.cert and web.key"
            )
        log.info("serve: status page and API on port %d of %s", self.port, self._options.listen)
        try:
            yield
        finally:
            self._server.should_exit = True
            thread.join(START_S)

    def _run(self, started: threading.Event) -> None:
        async def serve() -> None:
            work = asyncio.ensure_future(self._server.serve())
            while not self._server.started and not work.done():
                await asyncio.sleep(0.02)
            if self._server.started:
                self.port = int(self._server.servers[0].sockets[0].getsockname()[1])
            started.set()
            await work

        try:
            asyncio.run(serve())
        except (SystemExit, OSError):  # uvicorn exits if the port is taken
            pass
        finally:
            started.set()
