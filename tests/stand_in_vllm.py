"""As much of vLLM's server as completing asks for, on the loopback interface, with small models in this process."""

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lib.config import Model
from lib.model import generation, loading


@dataclass
class Server:
    """What is served, and what was asked.

    Args:
        base: folder of the base model, which is the server's name for it too.
        may_load: adapters at run time, as VLLM_ALLOW_RUNTIME_LORA_UPDATING says.
        tells_ids: as versions from 0.10.2 on do.
    """

    base: str
    may_load: bool = True
    tells_ids: bool = True
    loaded: dict = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)
    asked: list[dict] = field(default_factory=list)
    keys: set = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def model(self, name: str):
        if name not in self.loaded:
            adapter = self.adapters.get(name)
            settings = Model(self.base)
            self.loaded[name] = (
                loading.load_adapter(settings, Path(adapter)) if adapter else loading.load_base(settings)
            )
        return self.loaded[name]

    def complete(self, body: dict) -> list[dict]:
        """Greedy, or by draws that its seed makes; the token that ends a completion is the last of its ids."""
        ends = tuple(body["stop_token_ids"])
        decoding = generation.Decoding(
            body["max_tokens"], ends, body["temperature"] == 0, body["temperature"] or 1.0, body["top_p"],
            max(0, body["top_k"]),
        )  # fmt: skip
        found = generation.complete(self.model(body["model"]), [0], [body["prompt"]], decoding, body["n"], body["seed"])
        choices = []
        for index, ids in enumerate(found[0]):
            ended = len(ids) < body["max_tokens"]
            choices.append({"index": index, "text": "", "finish_reason": "stop" if ended else "length"})
            if self.tells_ids and body.get("return_token_ids"):
                choices[-1]["token_ids"] = [*ids, ends[0]] if ended else ids
        # In any order.
        return choices[::-1]


class _Handler(BaseHTTPRequestHandler):
    server_version = "vllm"

    def log_message(self, *_):
        pass

    def answer(self, status, value):
        data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(value, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        server = self.server.stands_in
        server.keys.add(self.headers.get("Authorization"))
        if self.path != "/v1/models":
            return self.answer(404, {"detail": "Not Found"})
        data = [{"id": server.base, "root": server.base, "parent": None}]
        data += [{"id": name, "root": path, "parent": server.base} for name, path in server.adapters.items()]
        return self.answer(200, {"object": "list", "data": data})

    def do_POST(self):
        server = self.server.stands_in
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/load_lora_adapter" and server.may_load:
            server.adapters[body["lora_name"]] = body["lora_path"]
            return self.answer(200, f"Success: LoRA adapter '{body['lora_name']}' added successfully.")
        if self.path != "/v1/completions":
            return self.answer(404, {"detail": "Not Found"})
        with server.lock:
            server.asked.append(body)
            return self.answer(200, {"object": "text_completion", "choices": server.complete(body)})


@contextmanager
def served(base: str):
    """The stand-in, while it runs."""
    server = Server(base)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.stands_in, server.url = server, f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
