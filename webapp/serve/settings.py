"""What is run, and where; from the command line and the environment."""

import argparse
import ipaddress
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib import paths
from lib.config import ConfigError, run_name
from lib.paths import ADAPTER_RECORD, RunPaths

WEBAPP = Path(__file__).resolve().parent.parent


class SettingsError(ValueError):
    """A setting that makes no sense; the message says which, and what would."""


@dataclass(frozen=True)
class Settings:
    """One chat app."""

    adapter: Path
    """A PEFT folder as `make report` leaves it."""
    state: Path
    """Database, secret key and Redis's data; nobody else may read it."""
    base_model: str = ""
    """Hub id, folder, .gguf file or name; empty: what the adapter's record names."""
    engine_url: str = ""
    """An OpenAI-compatible server that answers in the worker's place; empty: the worker holds the model itself."""
    redis_url: str = ""
    """A Redis that runs already; empty: one of our own."""
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    accounts: bool = False
    """Whether people log in; without, whoever reaches the address is the one local user."""
    proxies: str = ""
    """Addresses and networks of the proxies before the site, comma by comma: who they say is calling is believed."""
    origins: str = ""
    """The addresses that browsers use, comma by comma; empty: this machine's."""

    @property
    def loopback(self) -> bool:
        """Whether the address can be reached from this machine alone."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def address(self) -> str:
        """The URL of the site, as a browser on this machine would name it."""
        return f"http://{f'[{self.near}]' if ':' in self.near else self.near}:{self.port}"

    @property
    def near(self) -> str:
        """The host by which this machine itself reaches the site."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)

    @property
    def https(self) -> bool:
        """Whether browsers use the site behind TLS alone, so behind a proxy."""
        named = [one.strip().lower() for one in self.origins.split(",") if one.strip()]
        return bool(named) and all(one.startswith("https:") for one in named)

    def environment(self, redis_url: str) -> dict[str, str]:
        """What the children are told."""
        told = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(WEBAPP), str(WEBAPP.parent)]),
            "PYTHONUNBUFFERED": "1",
            "REDIS_URL": redis_url,
            "ADAPTER": str(self.adapter),
            "BASE_MODEL": self.base_model,
            "ENGINE_URL": self.engine_url,
            "KLEPON_CHAT": str(self.state),
            "KLEPON_HOST": self.host,
            "KLEPON_PORT": str(self.port),
            "KLEPON_ACCOUNTS": str(int(self.accounts)),
            # Uvicorn would believe all that this machine's own programs say of whom they speak for.
            "FORWARDED_ALLOW_IPS": self.proxies,
        }
        if self.workers > 1:
            # More threads than cores would wait for each other.
            told.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.workers)))
        return told


def read(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings that a command line and an environment ask for.

    Raises:
        SettingsError: if one of them makes no sense.
    """
    parser = argparse.ArgumentParser(prog="python -m serve", description="The chat app. `make chat` calls this.")
    parser.add_argument(
        "--run", default="demo", help="the run whose final adapter answers; its folder keeps the chat's data"
    )
    parser.add_argument("--adapter", default="", help="the adapter's folder (artifacts/<run>/final_adapter)")
    parser.add_argument("--base-model", default="", help="as for the report (what the adapter was trained on)")
    parser.add_argument("--engine-url", default="", help="an OpenAI-compatible server to ask instead of a model here")
    parser.add_argument("--port", default="8000")
    parser.add_argument("--workers", default="1", help="workers, each with a model of its own")
    given = parser.parse_args(argv)
    try:
        files = RunPaths(run_name(given.run or "demo"))
    except ConfigError as error:
        raise SettingsError(str(error)) from None
    adapter = paths.expanded(given.adapter) if given.adapter else files.final_adapter
    accounts = environ.get("KLEPON_ACCOUNTS", "0")
    if accounts not in ("0", "1"):
        raise SettingsError(f"KLEPON_ACCOUNTS={accounts!r} must be 1 (people log in) or 0 (one local user)")
    return Settings(
        adapter=adapter.absolute(),
        state=paths.expanded(environ.get("KLEPON_CHAT") or str(files.chat)).absolute(),
        base_model=given.base_model or str(record(adapter).get("base_model", "")),
        engine_url=given.engine_url,
        redis_url=environ.get("REDIS_URL", ""),
        host=environ.get("KLEPON_HOST", "127.0.0.1"),
        port=_whole("PORT", given.port, 1, 65_535),
        workers=_whole("WORKERS", given.workers, 1, 64),
        accounts=accounts == "1",
        proxies=_proxies(environ.get("KLEPON_PROXIES", "")),
        origins=environ.get("KLEPON_ORIGINS", ""),
    )


def record(adapter: Path) -> dict[str, object]:
    """What an adapter's folder tells of itself; empty where it tells nothing that can be read."""
    try:
        found = json.loads((adapter / ADAPTER_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def shown(path: Path) -> Path:
    """A path, without the project's folder where it is inside that."""
    return path.relative_to(paths.ROOT) if path.is_relative_to(paths.ROOT) else path


def _proxies(text: str) -> str:
    named = [one.strip() for one in text.split(",") if one.strip()]
    for one in named:
        try:
            ipaddress.ip_network(one)
        except ValueError:
            raise SettingsError(
                f"KLEPON_PROXIES={text!r} must be addresses or networks of proxies, as in 127.0.0.1 or 10.0.0.0/8, "
                "separated by commas"
            ) from None
    return ",".join(named)


def _whole(name: str, text: str, least: int, most: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise SettingsError(f"{name}={text!r} must be a whole number from {least} to {most}")
    return number
