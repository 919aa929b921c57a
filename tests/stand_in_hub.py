"""A hub on the loopback interface: as much of the real one's interface as reading data sets and models, and publishing
a model, ask for.

Repositories are dictionaries of files at commits. Faults are planted on the object: see `Hub`.
"""

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml
from huggingface_hub import constants


@dataclass
class Repository:
    """Files by name, at each commit; `main` is one of the commits."""

    commits: dict[str, dict[str, bytes]]
    main: str
    gated: bool = False
    private: bool = False


@dataclass
class Hub:
    """What is served, what goes wrong, and what was asked.

    `cut` names files of which only the first half comes, that often, and `stalled` those of which no byte comes and no
    end, and `silent` paths of the API that are not answered at all; `status` answers every request so, and `refused`
    those that begin so (`POST /api/repos/create`). `sent` counts the bytes of each file that crossed the network.
    Whoever writes must have the `token`. `stored` holds the large files that came, by their SHA-256.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    stalled: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    closing: threading.Event = field(default_factory=threading.Event)
    status: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    token: str = ""
    account: str = "someone"
    stored: dict[str, bytes] = field(default_factory=dict)
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
        hub.closing.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.asked()
        if path is None:
            return None
        if path == "/api/whoami-v2":
            return self.tell({"type": "user", "name": self.hub.account, "orgs": []}) if self.may_write() else None
        called = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+).*)?", path)
        if called:
            return self.describe(*called.groups())
        file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if file:
            return self.file(*file.groups())
        return self.answer(404, b"{}")

    do_HEAD = do_GET  # noqa: N815

    def asked(self):
        """The path of this request; None where a planted fault has answered it."""
        path = urllib.parse.unquote(self.path.partition("?")[0])
        self.hub.requests.append(f"{self.command} {path}")
        if path in self.hub.silent:
            # Not for ever: who waits without a limit of its own should fail, and not hang.
            self.hub.closing.wait(20)
            self.close_connection = True
            return None
        refused = [s for start, s in self.hub.refused.items() if f"{self.command} {path}".startswith(start)]
        if not (self.hub.status or refused):
            return path
        if self.command in ("POST", "PUT"):
            self.body()
        self.answer(self.hub.status or refused[0], b'{"error": "refused"}')
        return None

    def do_POST(self):
        path = self.asked()
        if path is None:
            return None
        body = self.body()
        known = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/(.+)", path)
        if known:
            return self.paths_info(body, *known.groups())
        if not self.may_write():
            return None
        if path == "/api/validate-yaml":
            return self.validate_yaml(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if re.fullmatch(r"/lfs/[0-9a-f]{64}/verify", path):
            told = json.loads(body)
            right = len(self.hub.stored.get(told["oid"], b"")) == told["size"]
            return self.answer(200 if right else 404, b"{}")
        written = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/(preupload|commit)/([^/]+)", path)
        if written:
            kind, name, what, revision = written.groups()
            if self.find(kind, name, revision)[1] is None:
                return None
            return self.preupload(json.loads(body)) if what == "preupload" else self.commit(kind, name, body)
        if re.fullmatch(r"/(datasets/)?[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
            return self.batch(json.loads(body))
        return self.answer(404, b"{}")

    def do_PUT(self):
        """A large file comes, under its SHA-256; as the real store, this one asks for no token."""
        path = self.asked()
        if path is None:
            return
        body, wanted = self.body(), path.removeprefix("/lfs/")
        if hashlib.sha256(body).hexdigest() != wanted:
            return self.answer(400, b"{}")
        self.hub.stored[wanted] = body
        self.answer(200, b"")

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def may_write(self):
        if self.hub.token and self.headers.get("Authorization") == f"Bearer {self.hub.token}":
            return True
        self.answer(401, b'{"error": "Invalid credentials"}', X_Error_Message="Invalid credentials")
        return False

    def tell(self, value):
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def validate_yaml(self, content):
        """The front matter of a card, which must be there and name a licence."""
        parts = content.split("---\n")
        data = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0] else None
        errors = [] if isinstance(data, dict) and data.get("license") else [{"message": "no licence in the metadata"}]
        self.answer(
            400 if errors else 200,
            json.dumps({"errors": errors, "warnings": []}).encode(),
            Content_Type="application/json",
        )

    def create(self, told):
        name = f"{told['organization'] or self.hub.account}/{told['name']}"
        key = f"{told.get('type') or 'model'}s/{name}"
        if key in self.hub.repositories:
            return self.answer(409, b'{"error": "it is there already"}')
        first = "0" * 40
        self.hub.repositories[key] = Repository({first: {}}, first, private=told.get("visibility") == "private")
        return self.tell({"url": f"{self.hub.endpoint}/{name}", "name": name, "id": "1"})

    def preupload(self, told):
        """Which way each file comes: large and binary ones apart."""
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in told["files"]
        ]
        self.tell({"files": files})

    def batch(self, told):
        """Where to put large files; those that are here already are not asked for."""
        objects = []
        for asked in told["objects"]:
            href = f"{self.hub.endpoint}/lfs/{asked['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            objects.append(asked if asked["oid"] in self.hub.stored else asked | {"actions": actions})
        self.tell({"transfer": "basic", "objects": objects})

    def commit(self, kind, name, body):
        """A commit as NDJSON: a line for its message, and one for each file."""
        repository = self.hub.repositories[f"{kind}/{name}"]
        files = dict(repository.commits[repository.main])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
        commit = self.hub.add(kind.removesuffix("s"), name, files)
        self.tell({"commitUrl": f"{self.hub.endpoint}/{name}/commit/{commit}", "commitOid": commit})

    def paths_info(self, body, kind, name, revision):
        """What is known of some paths."""
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
            body = {"_id": "1", "id": name, "sha": commit}
            body["private"] = self.hub.repositories[f"{kind}/{name}"].private
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
        if path in self.hub.stalled:
            self.wfile.flush()
            self.hub.closing.wait()
            self.close_connection = True
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
