"""As much of vLLM's server as completing asks for, on the loopback interface, with small models in this process."""

import json
import shutil
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lib.config import Model
from lib.model import generation, loading


@dataclass
class Server:
    """What is served, and what was asked.

    Args:
        base: the server's name for the base model: its folder, unless it is changed.
        may_load: adapters at run time, as VLLM_ALLOW_RUNTIME_LORA_UPDATING says.
        tells_ids: as versions from 0.10.2 on do.
        tells_prompts: how likely their tokens are.
        room: tokens that it reads and writes in all.
        applies: adapters; without, it answers to their names with the base model.
        scales: adapters as they say; without, as if none had rank-stabilised scaling.
    """

    base: str
    folder: str
    may_load: bool = True
    tells_ids: bool = True
    tells_prompts: bool = True
    room: int = 4_096
    applies: bool = True
    scales: bool = True
    loaded: dict = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)
    asked: list[dict] = field(default_factory=list)
    keys: set = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def model(self, name: str):
        adapter = self.adapters.get(name) if self.applies else None
        key = (name if adapter else None, self.scales)
        if key not in self.loaded:
            settings = Model(self.folder)
            self.loaded[key] = self.tuned(settings, Path(adapter)) if adapter else loading.load_base(settings)
        return self.loaded[key]

    def tuned(self, settings: Model, adapter: Path):
        if self.scales:
            return loading.load_adapter(settings, adapter)
        with TemporaryDirectory() as folder:
            copy = Path(shutil.copytree(adapter, Path(folder) / "adapter"))
            told = json.loads((copy / "adapter_config.json").read_text())
            (copy / "adapter_config.json").write_text(json.dumps(told | {"use_rslora": False}))
            return loading.load_adapter(settings, copy)

    def rated(self, body: dict) -> list[dict | None]:
        """What is known of the prompt's tokens."""
        ids = torch.tensor([body["prompt"]])
        with torch.inference_mode():
            found = self.model(body["model"])(input_ids=ids).logits[0].log_softmax(-1)
        return [None, *({str(t): {"logprob": float(found[n, t])}} for n, t in enumerate(body["prompt"][1:]))]

    def complete(self, body: dict) -> list[dict]:
        """Greedy, or by draws that its seed makes; the token that ends a completion is the last of its ids."""
        if "prompt_logprobs" in body:
            told = self.rated(body) if self.tells_prompts else None
            return [{"index": 0, "text": "", "finish_reason": "length", "prompt_logprobs": told}]
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

    def stream(self, choice):
        """Two tokens at a time, the reason with the last, as vLLM may."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        ids = choice["token_ids"]
        for start in range(0, max(1, len(ids)), 2):
            last = start + 2 >= len(ids)
            reason = choice["finish_reason"] if last else None
            told = {"index": 0, "text": "?", "token_ids": ids[start : start + 2], "finish_reason": reason}
            self.wfile.write(f"data: {json.dumps({'choices': [told]})}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def do_GET(self):
        server = self.server.stands_in
        server.keys.add(self.headers.get("Authorization"))
        if self.path != "/v1/models":
            return self.answer(404, {"detail": "Not Found"})
        data = [{"id": server.base, "root": server.base, "parent": None, "max_model_len": server.room}]
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
            if "prompt_logprobs" not in body:
                server.asked.append(body)
            if body.get("stream"):
                return self.stream(server.complete(body | {"n": 1})[0])
            return self.answer(200, {"object": "text_completion", "choices": server.complete(body)})


@contextmanager
def served(base: str):
    """The stand-in, while it runs."""
    server = Server(base, base)
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
