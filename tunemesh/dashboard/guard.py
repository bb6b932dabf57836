"""Who may see the pages: whoever has the token, from a page of ours, at an address of ours.

- The token is in the address that ``tunemesh dashboard`` prints. The first request with it sets a cookie and
  goes on at the address without it, so that it stays in no history.
- A request for another host is refused: the page of a stranger whose name leads to this machine (DNS
  rebinding) has another one.
- What changes something is taken from a page of ours only: with its ``Origin``, and as JSON, which no form of
  a stranger's page can send.
- Pages run no script but ours, load nothing from elsewhere, and stand in no frame.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN = "token"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
SAFE = frozenset({"GET", "HEAD"})
UNKNOWN = "open the address with the token that tunemesh dashboard has printed\n"


class Guard:
    """Lets through what may pass.

    Args:
        token: what whoever may see the pages has.
        hosts: ``HOST:PORT`` under which they are reached, in lower case.
        cookie: name of the cookie; another one for each port, since cookies are for all ports of a host.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str], cookie: str) -> None:
        self._app = app
        self._token = token
        self._hosts = frozenset(hosts)
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # nothing here speaks WebSocket

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._refusal(scope)
        await (answer or self._app)(scope, receive, guarded)

    def _refusal(self, scope: MutableMapping[str, Any]) -> ASGIApp | None:
        """What is answered in place of what was asked for; ``None`` where that may pass."""
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if host not in self._hosts:
            return PlainTextResponse("this dashboard has another address\n", 421)
        given = parse_qsl(scope["query_string"].decode("latin-1"))
        in_address = dict(given).get(TOKEN)
        if scope["method"] in SAFE and in_address is not None and self._is_token(in_address):
            rest = urlencode([(name, value) for name, value in given if name != TOKEN])
            answer = RedirectResponse(scope["path"] + (f"?{rest}" if rest else ""), 303)
            # Lax: a link in another program leads here, too. Nothing that changes something is a GET.
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
            return answer
        # Lenient: cookies of all other programs at this host come along.
        if not self._is_token(cookie_parser(headers.get("cookie", "")).get(self._cookie, "")):
            return PlainTextResponse(UNKNOWN, 401)
        if scope["method"] not in SAFE:
            if headers.get("origin", "") not in (f"http://{host}", f"https://{host}"):
                return PlainTextResponse("this may be asked for by a page of the dashboard only\n", 403)
            if headers.get("content-type", "").partition(";")[0] != "application/json":
                return PlainTextResponse("this is asked for as JSON\n", 415)
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())
