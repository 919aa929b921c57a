"""Settings of the site, from the environment alone; the defaults are the safe choice for one person's machine.

KLEPON_CHAT      the folder of the site's state: database, secret key, collected static files
KLEPON_HOST      the address that the server binds to (127.0.0.1); one that others reach, only with accounts
KLEPON_PORT      its port (8000)
KLEPON_ACCOUNTS  1: people log in; 0: one local user without log-in, for connections from this machine only
KLEPON_ORIGINS   the site's origins, separated by commas (http://127.0.0.1:8000 and its like); all https: behind TLS
ADAPTER          the adapter's folder, which may say what to ask it (starters.json)
DATABASE_URL     SQLite in KLEPON_CHAT unless set
REDIS_URL        the Redis that site and workers share
SECRET_KEY       made and kept in KLEPON_CHAT unless set; several machines that serve one site share one
"""

import logging
import os
from pathlib import Path
from typing import Any

import dj_database_url
from csp.constants import NONE, SELF
from django.utils.translation import gettext_lazy as _

from klepon import environment

WEBAPP = Path(__file__).resolve().parents[1]
STATE = Path(os.environ.get("KLEPON_CHAT") or WEBAPP.parent / "artifacts" / "demo" / "chat").resolve()

ACCOUNTS = environment.flag("KLEPON_ACCOUNTS")
BIND_HOST = os.environ.get("KLEPON_HOST") or "127.0.0.1"
BIND_PORT = int(os.environ.get("KLEPON_PORT") or 8000)
ORIGINS = environment.origins(os.environ.get("KLEPON_ORIGINS", ""), BIND_PORT)
REDIS_URL = os.environ.get("REDIS_URL") or "redis://127.0.0.1:6379/0"
ADAPTER = os.environ.get("ADAPTER", "")
PREDICTION_SERVICE = "wire.service.PredictionService"

DEBUG = False
SECRET_KEY = os.environ.get("SECRET_KEY") or environment.secret_key(STATE)
# The loopback names stay for the health checks of the machine itself.
ALLOWED_HOSTS = sorted({environment.host(one) for one in ORIGINS} | {"127.0.0.1", "localhost", "[::1]"})
CSRF_TRUSTED_ORIGINS = ORIGINS

INSTALLED_APPS = [
    "chat",
    "klepon.admin.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "klepon.static.StaticFiles",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    *([] if ACCOUNTS else ["chat.users.local_user_middleware"]),
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "klepon.urls"
ASGI_APPLICATION = "klepon.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "chat.views.chrome",
            ]
        },
    }
]

# --- Data ------------------------------------------------------------------------------------------------------------
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES: dict[str, Any]
if os.environ.get("DATABASE_URL"):
    # One connection a request: what Django asks for under ASGI. Put a pooler before PostgreSQL if that is too many.
    DATABASES = {"default": dj_database_url.parse(os.environ["DATABASE_URL"], conn_max_age=0)}
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": STATE / "chat.sqlite3",
            # The sockets' one thread keeps its connection: opening it anew, and writing the journal back on closing it,
            # took longer than the queries. Pages close theirs (chat.apps).
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                "timeout": 20,
                # Writers queue for the lock when they begin, where SQLite waits, instead of failing when they write.
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
        }
    }

# --- People ----------------------------------------------------------------------------------------------------------
AUTHENTICATION_BACKENDS = ["chat.lockout.LockingBackend"]
# Who tries to log in is counted for all sites that share a Redis, and in this process for as long as that is away. With
# Django's 300 places, tries at other names would push those at one out.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "klepon",
        "OPTIONS": {"socket_timeout": 2.0, "socket_connect_timeout": 2.0},
    },
    "process": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "OPTIONS": {"MAX_ENTRIES": 100_000},
    },
}
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "new"
LOGOUT_REDIRECT_URL = "login"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "CommonPasswordValidator", "NumericPasswordValidator")
] + [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
]
LANGUAGE_CODE = "id"
LANGUAGES = [("id", _("Indonesian")), ("en", _("English"))]
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"

# --- Static files ----------------------------------------------------------------------------------------------------
STATIC_URL = "/static/"
STATIC_ROOT = STATE / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "klepon.static.HashedFiles"},
}
WHITENOISE_ALLOW_ALL_ORIGINS = False
WHITENOISE_KEEP_ONLY_HASHED_FILES = True

# --- Security --------------------------------------------------------------------------------------------------------
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        # Not every browser counts the WebSocket of an origin as 'self'. The policy has no way to write an IPv6 address.
        "connect-src": [SELF, *(one.replace("http", "ws", 1) for one in ORIGINS if "[" not in one)],
        "manifest-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
        "require-trusted-types-for": ["'script'"],
        "trusted-types": ["klepon", "dompurify"],
    }
}
HTTPS = all(one.startswith("https:") for one in ORIGINS)
SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = ["^healthz$", "^readyz$"]
SECURE_HSTS_SECONDS = 30 * 24 * 3600 if HTTPS else 0
# Subdomains and the browsers' preload list are for the owner of a domain to decide, not for one site on it.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_NAME = "__Host-klepon-session" if HTTPS else "klepon-session"
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_NAME = "__Host-klepon-csrf" if HTTPS else "klepon-csrf"
CSRF_COOKIE_SECURE = HTTPS
CSRF_COOKIE_HTTPONLY = True
LANGUAGE_COOKIE_NAME = "klepon-language"
LANGUAGE_COOKIE_SECURE = HTTPS
LANGUAGE_COOKIE_SAMESITE = "Lax"
LANGUAGE_COOKIE_AGE = 365 * 24 * 3600
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 65_536


def _is_no_503(record: logging.LogRecord) -> bool:
    return getattr(record, "status_code", None) != 503


# What people write is never logged: no handler below prints a request's body or a frame.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    # /readyz answers 503 while no model is ready: that is news for whoever asks, not an error of the site.
    "filters": {"ready": {"()": "django.utils.log.CallbackFilter", "callback": _is_no_503}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["ready"]}},
    "loggers": {
        "django": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        # Anyone who asks for another host name would fill the log with tracebacks.
        "django.security.DisallowedHost": {"handlers": [], "propagate": False},
        "chat": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
    },
}
