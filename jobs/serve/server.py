"""A server's life: listen, load the model, answer, and end when a signal says so."""

from __future__ import annotations

import asyncio
import logging
import signal
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import BadContentDispositionHeader, BadContentDispositionParam, web

from artimuse_actor.errors import RunError, UsageError, reason_of
from jobs.serve.app import Service
from jobs.serve.scorer import Scorer
from jobs.serve.settings import ServeSettings, new_token
from jobs.words import show

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def serve(settings: ServeSettings) -> None:
    """Answer requests until SIGTERM or Ctrl-C; those in flight are finished.

    Raises:
        UsageError: a setting is not valid here, or the port is in use.
        ArtiMuseError: the model cannot be loaded.
        RunError: the model failed.
    """
    asyncio.run(_serve(settings))


async def _serve(settings: ServeSettings) -> None:
    given = settings.given_token()
    token = given or new_token()
    service = Service(token, settings.limits)
    stop = _stop_signal()
    async with listening(service, settings) as url:
        show(f"Loading {settings.model.checkpoint}. Listening on {url}")
        scorer = await asyncio.to_thread(Scorer.load, settings.model, settings.limits.wait_s, service.meters)
        service.scorer = scorer
        if given is None:
            show(f"Token, new at each start (--token-file sets one): {token}")
        show(f"Ready: {scorer.fingerprint}.")
        ended, stopped = asyncio.wrap_future(scorer.batcher.ended), asyncio.create_task(stop.wait())
        await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if ended.done() and (failure := ended.exception()):
            raise RunError(f"The model failed: {reason_of(failure)}. Requests got an error. Start it again.")
    show("Ended.")


@asynccontextmanager
async def listening(service: Service, settings: ServeSettings) -> AsyncIterator[str]:
    """Listen, with the url; at the end refuse further requests, answer those in flight, and end the scorer.

    Raises:
        UsageError: it cannot listen there.
    """
    # What strangers send is no news: tracebacks about requests that are no HTTP, and heads of parts in full.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    for category in (BadContentDispositionHeader, BadContentDispositionParam):
        warnings.simplefilter("ignore", category)
    limit_s = settings.limits.timeout_s
    runner = web.AppRunner(
        service.app(),
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=limit_s,  # also of clients that never finish the headers of a request
        shutdown_timeout=limit_s,
    )
    await runner.setup()
    try:
        await _listen(runner, settings)
        host, port = runner.addresses[0][:2]
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        service.end()
        await runner.cleanup()
        if service.scorer:
            service.scorer.close()


async def _listen(runner: web.AppRunner, settings: ServeSettings) -> None:
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except OSError as error:
        raise UsageError(
            f"--host {settings.host} --port {settings.port}: cannot listen there ({error.strerror or error}). "
            "Choose another --port; 0 takes any that is free."
        ) from error


def _stop_signal() -> asyncio.Event:
    """An event that the first SIGTERM or Ctrl-C sets; the second one ends the process as ever."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def end() -> None:
        stop.set()
        show("Ending: requests in flight are answered, others refused. Once more ends at once.")
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, end)
    return stop
