"""A hub on the loopback interface: as much of the real one's interface as reading data sets and models asks for.

Repositories are dictionaries of files at commits. Faults are planted on the object: see `Hub`.
"""

import hashlib
import json
import re
import threading
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from huggingface_hub import constants


@dataclass
class Repository:
    """Files by name, at each commit; `main` is one of the commits."""

    commits: dict[str, dict[str, bytes]]
    main: str
    gated: bool = False


@dataclass
class Hub:
    """What is served, what goes wrong, and what was asked.

    `cut` names files of which only the first half comes, that often; `status` answers every request so. `sent` counts
    the bytes of each file that crossed the network.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    status: int = 0
    requests: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    endpoint: str = ""

    def add(self, kind: str, name: str, files: dict[str, bytes], **options: bool) -> str:
        """Put files into a repository as its newest commit, which is returned."""
        digest = hashlib.sha1(
            b"".join(key.encode() + value for key, value in sorted(files.items())), usedforsecurity=False
        )
        commit = digest.hexdigest()
        known = self.repositories.setdefault(f"{kind}s/{name}", Repository({}, commit, **options))
        known.commits[commit], known.main = files, commit
        return commit


@contextmanager
def serving(hub: Hub, monkeypatch=None, cache=None):
    """Serve the hub; with `monkeypatch`, this process takes it for the real one, with a cache folder of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    if monkeypatch:
        for name, value in {
            "ENDPOINT": hub.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = urllib.parse.unquote(self.path.partition("?")[0])
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.status:
            return self.answer(self.hub.status, b"{}")
        called = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+).*)?", path)
        if called:
            return self.describe(*called.groups())
        file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if file:
            return self.file(*file.groups())
        return self.answer(404, b"{}")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self):
        """What is known of some paths."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urllib.parse.unquote(self.path)
        self.hub.requests.append(f"POST {path}")
        kind, name, revision = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/(.+)", path).groups()
        _, files = self.find(kind, name, revision)
        wanted = json.loads(body)["paths"] if body.startswith(b"{") else urllib.parse.parse_qs(body.decode())["paths"]
        entries = [self.entry(path, files[path]) for path in wanted if path in (files or {})]
        self.answer(200, json.dumps(entries).encode())

    def find(self, kind, name, revision):
        known = self.hub.repositories.get(f"{kind}/{name}")
        if not known:
            self.answer(401 if not self.headers.get("Authorization") else 404, b"{}", X_Error_Code="RepoNotFound")
            return None, None
        commit = known.main if revision in (None, "main") else revision
        if commit not in known.commits:
            self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
            return None, None
        return commit, known.commits[commit]

    @staticmethod
    def entry(path, data):
        return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def describe(self, kind, name, what, revision):
        commit, files = self.find(kind, name, revision)
        if files is None:
            return
        if what == "tree":
            body = [self.entry(path, data) for path, data in files.items()]
        else:
            body = {"_id": "1", "id": name, "sha": commit, "private": False}
            body["siblings"] = [{"rfilename": path} for path in files]
        self.answer(200, json.dumps(body).encode(), Content_Type="application/json")

    def file(self, datasets, name, revision, path):
        kind = "datasets" if datasets else "models"
        commit, files = self.find(kind, name, revision)
        if files is None:
            return
        if self.hub.repositories[f"{kind}/{name}"].gated and not self.headers.get("Authorization"):
            return self.answer(401, b"{}", X_Error_Code="GatedRepo")
        if path not in files:
            return self.answer(404, b"{}", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        data = files[path]
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self.answer(200, data, path, **headers)
        start, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
        headers["Content_Range"] = f"bytes {start}-{end}/{len(data)}"
        return self.answer(206, data[start : end + 1], path, **headers)

    def answer(self, status, body, path="", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cut.get(path, 0) > 0:
            self.hub.cut[path] -= 1
            body, self.close_connection = body[: len(body) // 2], True
        self.hub.sent[path] = self.hub.sent.get(path, 0) + len(body)
        self.wfile.write(body)
        if self.close_connection:
            self.connection.close()

    def log_message(self, *_):
        pass
