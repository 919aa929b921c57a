"""What must be in place before the chat app can run: the supervisor stops at what is missing, the doctor lists all."""

import errno
import hashlib
import importlib.metadata
import os
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from worker.engine import is_address

from lib import paths
from lib.model import adapter_files, packaged
from lib.paths import ADAPTER_RECORD
from serve import redis_server
from serve.settings import Settings, record, shown

PACKAGES = (
    "Django", "channels", "uvicorn", "websockets", "redis", "hiredis", "django-csp", "whitenoise", "dj-database-url",
    "markdown-it-py", "nh3", "psutil", "torch", "transformers", "tokenizers", "peft",
)  # fmt: skip
DISK = 200 * 2**20
"""Bytes that the chat's folder should have: a journal of Redis and some thousand conversations."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    what: str
    found: str
    cure: str = ""
    """What to do; empty where all is well."""

    @property
    def sentence(self) -> str:
        """The finding and its cure."""
        return f"{self.found}; {self.cure}" if self.cure else self.found


def everything(settings: Settings) -> Iterator[Finding]:
    """All checks, one after the other."""
    for check in (packages, redis, adapter, base_model, address, port, state, memory):
        yield check(settings)


def packages(_: Settings) -> Finding:
    """Whether the site and the worker can import what they need, in the versions of the lock."""
    lock = (paths.ROOT / "requirements.txt").read_text(encoding="utf-8") if _has_lock() else ""
    pins = dict(re.findall(r"^(\S+)==(\S+)$", lock, re.MULTILINE))
    wrong, versions = [], {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        # A local label, as in 2.13.0+cpu, names another build of the same version.
        if name in pins and versions[name].partition("+")[0] != pins[name]:
            wrong.append(f"{name} is {versions[name]}, not {pins[name]}")
    if wrong:
        return Finding("packages", ", ".join(wrong), "run `pip install --no-deps -r requirements.txt`")
    return Finding("packages", f"Django {versions['Django']}, torch {versions['torch']} and {len(PACKAGES) - 2} more")


def redis(settings: Settings) -> Finding:
    """Whether there is a Redis to use, and of which version."""
    if settings.redis_url:
        return _running_redis(settings.redis_url)
    try:
        program = redis_server.find()
    except redis_server.NoServerError as error:
        what, _, cure = str(error).partition(": ")
        return Finding("Redis", what, cure)
    found = f"{program}, {shown(program.path)}"
    return Finding("Redis", f"{found} ({program.warning})" if program.warning else found)


def _running_redis(url: str) -> Finding:
    import redis as client

    cure = "start it, or leave REDIS_URL empty to have one started"
    # What stands before the @ is a password.
    place = re.sub(r"//.*@", "//", url)
    try:
        connection = client.Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3, protocol=2)
    except ValueError as error:
        return Finding("Redis", f"REDIS_URL={place!r} is not the address of a Redis ({error})", cure)
    try:
        connection.ping()
    except client.RedisError as error:
        return Finding("Redis", f"REDIS_URL={place!r} does not answer ({error})", cure)
    try:
        told = connection.info("server")
    except client.RedisError:
        return Finding("Redis", f"{place} answers, but does not tell its version")
    finally:
        connection.close()
    name, text = ("Valkey", told["valkey_version"]) if "valkey_version" in told else ("Redis", told["redis_version"])
    program = redis_server.Program(Path(), name, tuple(int(part) for part in text.split(".")[:3]))
    if program.version < redis_server.OLDEST:
        return Finding("Redis", f"{program} at {place} is too old", "use version 7 or newer")
    return Finding("Redis", f"{program} at {place}" + (f" ({program.warning})" if program.warning else ""))


def adapter(settings: Settings) -> Finding:
    """Whether the adapter is there, and its chat template the one that it was trained with."""
    folder = settings.adapter
    if settings.engine_url:
        return _engine(settings.engine_url)
    if not (folder / "adapter_config.json").is_file():
        cure = f"run `{paths.command_for(folder)}` first, or set ADAPTER to an adapter's folder"
        return Finding("adapter", f"no adapter in {shown(folder)}", cure)
    told = record(folder)
    if "chat_template_sha256" not in told:
        cure = f"copy the whole folder again, or remove it and run `{paths.command_for(folder)}`"
        return Finding("adapter", f"{shown(folder)} has no {ADAPTER_RECORD} with the hash of its chat template", cure)
    template, prompt = folder / "chat_template.jinja", told.get("prompt")
    if template.is_file() and isinstance(prompt, dict):
        # As lib.model.prompts.chat_template_hash, without loading a tokenizer.
        text = template.read_text(encoding="utf-8", errors="replace")
        text = f"{text}\0{prompt.get('date')}\0{prompt.get('bos_tokens')}"
        if hashlib.sha256(text.encode()).hexdigest() != told["chat_template_sha256"]:
            cure = f"restore the template, or remove the folder and run `{paths.command_for(folder)}`"
            return Finding("adapter", f"{shown(template)} is not the one that the adapter was trained with", cure)
    base = paths.DEMO_BASE_MODEL if settings.base_model == "demo" else Path(paths.located(settings.base_model))
    if fault := adapter_files.fault(folder, base if base.is_dir() else None):
        cure = f"copy the whole folder again, or remove it and run `{paths.command_for(folder)}`"
        return Finding(
            "adapter", f"the adapter in {shown(folder)} cannot be loaded on {settings.base_model}: {fault}", cure
        )
    return Finding("adapter", f"{shown(folder)}, chat template {str(told['chat_template_sha256'])[:12]}")


def _engine(url: str) -> Finding:
    if not is_address(url):
        return Finding("adapter", f"ENGINE_URL={url!r} is no address of a server", "write it as http://host:port/v1")
    return Finding("adapter", f"whatever {url} serves")


def base_model(settings: Settings) -> Finding:
    """Whether the base model is a folder that is there, or a name for the hub."""
    name = settings.base_model
    if settings.engine_url:
        return Finding("base model", f"whatever {settings.engine_url} serves")
    if not name:
        return Finding("base model", "the adapter names none", "set BASE_MODEL to a hub id or a folder")
    if package := packaged.PACKAGES.get(name):
        here = "which is here" if package.path.is_file() else "which pip fetches"
        return Finding("base model", f"{name}, from the package {package.name} {package.version}, {here}")
    folder = paths.DEMO_BASE_MODEL if name == "demo" else paths.expanded(name)
    if folder.is_file() and folder.suffix.lower() == ".gguf":
        return Finding("base model", f"{folder.name}, {_mib(folder.stat().st_size)}, to be unpacked once")
    if (folder / "config.json").is_file():
        return Finding("base model", f"{name}, {_mib(_weights(folder))} of weights")
    if name.startswith((".", "/", "~")):
        return Finding("base model", f"BASE_MODEL={name}: no config.json in that folder", "set it to a model's folder")
    return Finding("base model", f"{name}, from the hub or its cache")


def address(settings: Settings) -> Finding:
    """Whether only those are let in who should be."""
    if settings.https and not settings.proxies:
        cure = "name its address in KLEPON_PROXIES, such as 127.0.0.1 where it is on this machine"
        return Finding("address", "KLEPON_ORIGINS is https, so a proxy stands before the site, but none is named", cure)
    if settings.loopback:
        return Finding("address", f"{settings.host}, this machine alone")
    if not settings.accounts:
        cure = "set KLEPON_ACCOUNTS=1, so that people log in, or leave KLEPON_HOST at 127.0.0.1"
        return Finding("address", f"KLEPON_HOST={settings.host} would let everybody in without a log-in", cure)
    return Finding("address", f"{settings.host}, with log-in")


def port(settings: Settings) -> Finding:
    """Whether the port is free."""
    try:
        listen(settings).close()
    except OSError as error:
        return Finding("port", *_taken(settings, error))
    return Finding("port", f"{settings.port} is free")


def state(settings: Settings) -> Finding:
    """Whether the chat's folder can be written, with room in it."""
    try:
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings.state.chmod(0o700)
        if not os.access(settings.state, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "not writable")
    except OSError as error:
        cure = "take ownership of it, or set KLEPON_CHAT to another folder"
        return Finding("disk", f"{shown(settings.state)} cannot be written ({error.strerror})", cure)
    free = shutil.disk_usage(settings.state).free
    if free < DISK:
        return Finding("disk", f"{shown(settings.state)} has {_mib(free)} left", f"free up {_mib(DISK)}")
    return Finding("disk", f"{shown(settings.state)} has {_mib(free)} left")


def memory(settings: Settings) -> Finding:
    """Whether every worker's model fits into what is free."""
    name = settings.base_model
    folder = paths.DEMO_BASE_MODEL if name == "demo" else paths.expanded(name or "nowhere")
    # A process that has imported torch takes half a GiB; weights of 16 bits become twice as large on a CPU.
    needed = 0 if settings.engine_url else settings.workers * (2**29 + 2 * _weights(folder))
    free = psutil.virtual_memory().available
    if free < needed:
        return Finding("memory", f"{_mib(free)} free, {_mib(needed)} needed", "use fewer WORKERS or a smaller model")
    return Finding("memory", f"{_mib(free)} free")


def listen(settings: Settings) -> socket.socket:
    """A socket on the site's address, listening.

    Raises:
        OSError: if it cannot be had.
    """
    family, kind, protocol, _, place = socket.getaddrinfo(
        settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it: a token must not wait for the one before to be acknowledged.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(place)
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def _taken(settings: Settings, error: OSError) -> tuple[str, str]:
    if error.errno == errno.EADDRINUSE:
        return f"port {settings.port} is taken{_holder(settings.port)}", "stop that, or choose another with PORT"
    if error.errno == errno.EACCES:
        return f"port {settings.port} is for the administrator alone", "choose one from 1024 up with PORT"
    return f"cannot listen on {settings.host}:{settings.port} ({error.strerror})", "change KLEPON_HOST or PORT"


def _holder(number: int) -> str:
    """Who listens on a port, as far as this user may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == number and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        pass
    return ""


def _has_lock() -> bool:
    return (paths.ROOT / "requirements.txt").is_file()


def _weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
