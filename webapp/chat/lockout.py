"""One lock for every door of every site: whoever fails five times waits for five minutes, wherever they try next."""

from collections.abc import Callable
from typing import Any, TypeVar

import redis
from asgiref.sync import sync_to_async
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.forms import AuthenticationForm
from django.core.cache import BaseCache, caches
from django.core.exceptions import NON_FIELD_ERRORS, PermissionDenied, ValidationError
from django.forms import Form
from django.http import HttpRequest
from django.utils.translation import gettext as _

T = TypeVar("T")

TRIES = 5
SECONDS = 300
TOO_MANY = 429
"""The status of a page that says so."""


class LockingBackend(ModelBackend):
    """Django's own check of names and passwords, behind a count of tries for each name and address."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **more: Any
    ) -> AbstractBaseUser | None:
        """The user of this name and password, or None.

        Raises:
            PermissionDenied: after too many tries, be the password right or wrong.
        """
        # Counted before the password is looked at: tries that come together are all counted.
        if request is not None and _count(request, username) > TRIES:
            raise PermissionDenied
        user = super().authenticate(request, username=username, password=password, **more)
        if request is not None and user is not None:
            _at_cache(lambda cache: cache.delete(_key(request, username)))
        return user

    async def aauthenticate(self, request: HttpRequest | None, **credentials: Any) -> AbstractBaseUser | None:
        """As above, for coroutines: Django's own would not count."""
        return await sync_to_async(self.authenticate)(request, **credentials)


class LoginForm(AuthenticationForm):
    """The form of the log-in page."""

    def get_invalid_login_error(self) -> ValidationError:
        """That the password is wrong, or that it is not even looked at."""
        if self.request is not None:
            key = _key(self.request, self.cleaned_data.get("username"))
            if _at_cache(lambda cache: cache.get(key, 0)) > TRIES:
                return ValidationError(_("Too many attempts. Wait five minutes."), code="locked")
        return super().get_invalid_login_error()


class AdminLoginForm(LoginForm, AdminAuthenticationForm):
    """The form of the admin's own log-in page."""


def is_locked(form: Form) -> bool:
    """Whether a form of the above was turned away unread."""
    return form.has_error(NON_FIELD_ERRORS, "locked")


def _count(request: HttpRequest, name: str | None) -> int:
    """How many tries there were, this one included."""
    key = _key(request, name)

    def counted(cache: BaseCache) -> int:
        if cache.add(key, 1, SECONDS):
            return 1
        try:
            return int(cache.incr(key))
        except ValueError:
            # It ran out between the two.
            cache.set(key, 1, SECONDS)
            return 1

    return _at_cache(counted)


def _at_cache(call: Callable[[BaseCache], T]) -> T:
    """What all sites share, in Redis; this process alone where that cannot be reached, or is full."""
    try:
        return call(caches["default"])
    except redis.RedisError:
        return call(caches["process"])


def _key(request: HttpRequest, name: str | None) -> str:
    return f"login:{request.META.get('REMOTE_ADDR', '')}:{(name or '').casefold()[:150].encode().hex()}"
