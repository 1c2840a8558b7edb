"""A server with the part of the Hugging Face hub's API that a push and a download use; repositories are folders."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

TOKEN = "hf_good"
SHA = "0" * 40


@dataclass
class Hub:
    """What it holds, and what was asked."""

    root: Path
    url: str = ""
    commits: list[dict[str, Any]] = field(default_factory=list)
    private: dict[str, bool] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    read_only: bool = False


class Handler(BaseHTTPRequestHandler):
    """POST /api/repos/create, /api/validate-yaml, preupload and commit of a model, LFS by PUT; HEAD and GET of files for `snapshot_download`."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, value: Any = None, *, headers: dict[str, str] | None = None, data: bytes | None = None) -> None:
        body = json.dumps(value).encode() if data is None else data
        self.send_response(status)
        for name, one in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, one)
        if status >= 400 and isinstance(value, dict):
            self.send_header("X-Error-Message", value["error"])
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid credentials in Authorization header"})
        if self.hub.read_only:
            return self.answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        repository = "/".join(self.path.removeprefix("/api/models/").split("/")[:2])
        if "/preupload/" in self.path:
            weights = (".safetensors", ".onnx")
            modes = [(one["path"], "lfs" if one["path"].endswith(weights) else "regular") for one in json.loads(body)["files"]]
            return self.answer(200, {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes]})
        if self.path.endswith("/info/lfs/objects/batch"):
            return self.upload_places(json.loads(body)["objects"])
        if "/commit/" in self.path:
            return self.commit(repository, [json.loads(line) for line in body.splitlines()])
        return self.answer(404, {"error": "no such place"})

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        if (self.hub.root / name).exists():
            return self.answer(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        (self.hub.root / name).mkdir(parents=True)
        (self.hub.root / name / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        self.hub.private[name] = bool(asked.get("private") or asked.get("visibility") == "private")
        return self.answer(200, {"url": f"{self.hub.url}/{name}"})

    def upload_places(self, objects: list[dict[str, Any]]) -> None:
        places = [
            {**one, "authenticated": True, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}", "header": {}}}} for one in objects
        ]
        self.answer(200, {"transfer": "basic", "objects": places}, headers={"Content-Type": "application/vnd.git-lfs+json"})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(content).hexdigest() == self.path.removeprefix("/lfs/")
        self.hub.lfs[hashlib.sha256(content).hexdigest()] = content
        self.answer(200, {})

    def commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.commits.append({"repository": repository, "summary": value["summary"]})
                continue
            path = self.hub.root / repository / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(value["content"]) if line["key"] == "file" else self.hub.lfs[value["oid"]])
        self.answer(200, {"commitUrl": f"{self.hub.url}/{repository}/commit/{SHA}", "commitOid": SHA, "success": True})

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/"):
            repository = "/".join(path.removeprefix("/api/models/").split("/")[:2])
            folder = self.hub.root / repository
            files = [str(file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file()]
            if "/tree/" in path:
                entries = [{"type": "file", "path": file, "oid": SHA, "size": (folder / file).stat().st_size} for file in files]
                return self.answer(200, entries)
            siblings = [{"rfilename": file, "size": (folder / file).stat().st_size} for file in files]
            return self.answer(200, {"id": repository, "modelId": repository, "sha": SHA, "private": False, "siblings": siblings, "tags": []})
        repository, _, file = path.strip("/").partition("/resolve/")
        place = self.hub.root / repository / file.partition("/")[2]
        if not place.is_file():
            return self.answer(404, {"error": "Entry not found"}, headers={"X-Error-Code": "EntryNotFound"})
        content = place.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        return self.answer(200, data=content, headers=headers)

    do_HEAD = do_GET


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    """A hub at an address of its own, until the block ends."""
    hub = Hub(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
