"""What the site reads from the environment, checked; and the secret key that it keeps."""

import contextlib
import ipaddress
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

PORTS = {"http": 80, "https": 443}


def flag(name: str) -> bool:
    """Whether a variable that says yes or no says yes; unset and empty mean no.

    Raises:
        ImproperlyConfigured: if it is neither 0 nor 1.
    """
    value = os.environ.get(name, "").strip()
    if value not in ("", "0", "1"):
        raise ImproperlyConfigured(f"{name}={value!r}: write 1 for yes or 0 for no")
    return value == "1"


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address or a name."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def origin(text: str) -> str:
    """An origin as browsers write it: scheme, host and port, without the scheme's own port.

    Raises:
        ImproperlyConfigured: if it is anything else than an origin.
    """
    try:
        parts = urlsplit(text.strip().lower())
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in PORTS or not parts.hostname or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        raise ImproperlyConfigured(
            f"{text!r} is not an origin: write it as https://chat.example.org or http://name:8000"
        )
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{name}" + ("" if port in (None, PORTS[parts.scheme]) else f":{port}")


def host(origin: str) -> str:
    """The host of an origin, as Django writes it: an IPv6 address in brackets."""
    return re.sub(r":\d+$", "", origin.split("//")[1])


def origins(text: str, port: int) -> list[str]:
    """The origins that browsers may come from: those named, comma by comma, or the loopback names at `port`."""
    named = [origin(one) for one in text.split(",") if one.strip()]
    return named or [origin(f"http://{host}:{port}") for host in ("127.0.0.1", "localhost", "[::1]")]


def secret_key(folder: Path) -> str:
    """The key in a folder, made on first use; processes that start together agree on one."""
    path = folder / "secret_key"
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".secret_key", delete=False) as new:
            new.write(get_random_secret_key())
        with contextlib.suppress(FileExistsError):
            os.link(new.name, path)
        Path(new.name).unlink()
    return path.read_text()
