"""Serving a page: on which port, to whom, and that it asks nothing of other machines.

In: gradio's Blocks and an address. Out: a server, until it is closed. What is on the page is unknown here. Gradio's own `launch` (6.31)
isn't used: its server gets five seconds to start and three to answer, and where a busy machine takes longer it speaks of ports and proxies.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from finetune_api.errors import RunFailed

# The page may load, show and ask only what its own server has: no picture that an answer names, no font, no script.
POLICY: Final = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; base-uri 'self'; object-src 'none'"
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Where a page is. `public`: an address that gradio's servers pass on, where it was asked for."""

    url: str
    public: str | None = None


@contextmanager
def served(page: Any, listener: socket.socket, *, share: bool = False) -> Iterator[Served]:
    """Serve gradio's Blocks on a bound socket until the block ends. Raises RunFailed where the server or `share` fails."""
    import uvicorn

    # Streams of browsers are open for as long as their pages are.
    config = uvicorn.Config(_application(page), log_level="error", timeout_graceful_shutdown=1, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="page", daemon=True)
    thread.start()
    try:
        while not server.started:
            thread.join(_LOOK_SECONDS)
            if not thread.is_alive():
                raise RunFailed("the page's server ended as it began; FINETUNE_DEBUG=1 shows more")
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        yield Served(url=url, public=_tunnel(page, host, port) if share else None)
    finally:
        server.should_exit = True
        thread.join()
        page.close(verbose=False)
        listener.close()


def _application(page: Any) -> Any:
    import fastapi
    import gradio as gr

    # Names of fonts only: gradio's own classes of fonts fetch them.
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    application = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    off = {"run_history": False, "enable_monitoring": False, "ssr_mode": False, "pwa": False, "mcp_server": False}
    gr.mount_gradio_app(application, page, path="/", theme=theme, footer_links=[], show_error=False, **off)
    return OnlyFromHere(application)


def _tunnel(page: Any, host: str, port: int) -> str:
    """An address for everybody, by gradio's servers."""
    from gradio import networking

    try:
        return str(networking.setup_tunnel(host, port, page.share_token, None, None))
    except Exception as error:  # gradio raises bare errors of several kinds
        raise RunFailed(f"--share: gradio's servers gave no address ({error}); leave it out, and forward the port yourself") from error


class OnlyFromHere:
    """ASGI middleware: browsers are told to load nothing from elsewhere."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Adds headers to the answers of HTTP requests."""

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self._application(scope, receive, sending if scope["type"] == "http" else send)
