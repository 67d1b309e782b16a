"""A proxy in front of an emulated store: counts requests, injects faults, checks preconditions.

    python tests/tools/store_proxy.py --port=9000 --to=127.0.0.1:8000

POST /-/faults with JSON sets the faults, a list of objects:

    {"method": "PUT", "match": "checkpoints/", "kind": "503", "times": 3, "after": 10}

`kind` is a status (401, 403, 429, 500, 503), "cut" (the connection ends in the middle of the
request) or "silent" (the request is done, and the connection ends without an answer); `times` -1 is
for ever; the first `after` requests that match are let through. /-/counts returns the requests so
far, {"PUT object": 3, ...}, and forgets them; /-/log returns them one by one.

gcp-storage-emulator ignores `ifGenerationMatch` and does not send the generation of what is read,
without which TensorStore cannot write on a condition, so the proxy does both.
"""

import argparse
import asyncio
import json
import re
import urllib.parse
from collections import Counter

from aiohttp import ClientSession, TCPConnector, web
from yarl import URL

FORGOTTEN = {"host", "transfer-encoding", "content-length", "connection", "keep-alive"}
CODES = {401: "ExpiredToken", 403: "AccessDenied", 429: "SlowDown", 500: "InternalError",
         503: "ServiceUnavailable"}


class Proxy:

    def __init__(self, target: str):
        self._target, self._faults = target, []
        self._counts, self._log = Counter(), []
        self._writing = asyncio.Lock()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/-/"):
            return await self._control(request)
        body = await request.read()
        method, name = operation(request.method, request.raw_path, body)
        self._counts[method] += 1
        self._log.append(f"{method} {name}")
        fault = self._fault(request.method, urllib.parse.unquote(request.raw_path) + name)
        if fault and fault["kind"] == "cut":
            request.transport.close()
            return web.Response(status=500)
        if fault and fault["kind"] != "silent":
            return refused(int(fault["kind"]))
        wanted = request.query.get("ifGenerationMatch")
        if method == "read" and request.query.get("alt") == "media":
            async with self._writing:
                generation = await self._generation(request, name)
                answer = await self._forward(request, body)
                answer.headers["x-goog-generation"] = generation
        elif wanted is not None and request.method in ("POST", "PUT"):
            async with self._writing:
                if await self._generation(request, name) != wanted:
                    return web.json_response(
                        {"error": {"code": 412, "message": "conditionNotMet"}}, status=412)
                answer = await self._forward(request, body)
        elif method == "write" and request.path.startswith("/upload/"):
            async with self._writing:
                answer = await self._forward(request, body)
        else:
            answer = await self._forward(request, body)
        if fault:
            request.transport.close()
        return answer

    def _fault(self, method: str, path: str) -> dict | None:
        for fault in self._faults:
            if re.search(fault.get("method", ""), method) and re.search(
                    fault.get("match", ""), path) and fault.get("times", -1):
                if fault.get("after", 0) > 0:
                    fault["after"] -= 1
                    continue
                fault["times"] = fault.get("times", -1) - 1
                return fault
        return None

    async def _generation(self, request: web.Request, name: str) -> str:
        bucket = request.path.split("/b/")[1].split("/")[0]
        url = f"http://{self._target}/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, '')}"
        async with request.app["session"].get(URL(url, encoded=True)) as answer:
            if answer.status == 404:
                return "0"
            return (await answer.json())["generation"]

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        headers = {key: value for key, value in request.headers.items()
                   if key.lower() not in FORGOTTEN}
        url = URL(f"http://{self._target}{request.raw_path}", encoded=True)
        async with request.app["session"].request(
                request.method, url, data=body or None, headers=headers,
                allow_redirects=False) as answer:
            content = await answer.read()
            kept = [(key, value) for key, value in answer.headers.items()
                    if key.lower() not in FORGOTTEN - {"content-length"}]
            if request.method == "HEAD":
                response = web.Response(status=answer.status, headers=kept)
                return response
            kept = [(key, value) for key, value in kept if key.lower() != "content-length"]
            here, there = f"http://{request.host}", f"http://{self._target}"
            kept = [(key, value.replace(there, here)) for key, value in kept]
            return web.Response(status=answer.status, body=content, headers=kept)

    async def _control(self, request: web.Request) -> web.Response:
        values = json.loads(await request.read() or b"{}")
        if request.path == "/-/faults":
            self._faults = values.get("faults", [])
        if request.path == "/-/counts":
            found, self._counts, self._log = self._counts, Counter(), []
            return web.json_response(found)
        if request.path == "/-/log":
            return web.json_response({"log": self._log})
        return web.json_response({})


def operation(method: str, path: str, body: bytes) -> tuple[str, str]:
    """What a request does, in the words of a bill, and the object that it names."""
    url = urllib.parse.urlsplit(path)
    query = urllib.parse.parse_qs(url.query, keep_blank_values=True)
    parts = url.path.strip("/").split("/")
    if "storage" in parts[:3] and "b" in parts:
        rest = [urllib.parse.unquote(part) for part in parts[parts.index("b") + 1:]]
        name = rest[2] if len(rest) > 2 else query.get("name", [""])[0]
        if "upload" in parts[:2]:
            found = re.search(rb'"name": ?"((?:[^"\\]|\\.)*)"', body[:2000])
            name = name or (json.loads(b'"' + found[1] + b'"') if found else "")
            return "write", name
        if len(rest) > 2:
            if "rewriteTo" in rest:
                return "copy", name
            kind = {"GET": "read" if query.get("alt") == ["media"] else "stat"}
            return kind.get(method, method.lower()), name
        if len(rest) == 2:
            return "list", query.get("prefix", [""])[0]
        return "bucket", ""
    if "download" in parts[:1]:
        return "read", urllib.parse.unquote(parts[-1])
    name = urllib.parse.unquote("/".join(parts[1:]))
    if method == "GET" and not name:
        return "list", query.get("prefix", [""])[0]
    if method == "POST" and "delete" in query:
        return "delete", " ".join(re.findall(r"<Key>(.*?)</Key>", body.decode()))
    return {"GET": "read", "HEAD": "stat", "PUT": "write", "POST": "write"}.get(
        method, method.lower()), name


def refused(status: int) -> web.Response:
    """An answer that both kinds of clients understand."""
    body = json.dumps({"error": {"code": status, "message": CODES.get(status, "error")}})
    return web.Response(status=status, text=body, content_type="application/json")


async def make_app(target: str) -> web.Application:
    app, proxy = web.Application(client_max_size=1 << 30), Proxy(target)
    app["session"] = ClientSession(connector=TCPConnector(limit=100, force_close=True),
                                   auto_decompress=False)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    args = parser.parse_args()
    web.run_app(make_app(args.to), host="127.0.0.1", port=args.port, print=None,
                access_log=None, handler_cancellation=False)


if __name__ == "__main__":
    main()
