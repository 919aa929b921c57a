"""Who is asking: the local user without log-in, or whoever logged in."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user, get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.http import HttpRequest, HttpResponse

LOCAL = "lokal"


def local_user() -> AbstractBaseUser:
    """The one user of a site without accounts, who may enter the admin; the database gives them no special rights."""
    user, new = get_user_model().objects.get_or_create(username=LOCAL)
    if new:
        user.set_unusable_password()
        user.save()
    user.is_staff = user.is_superuser = True
    return user


def local_user_middleware(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Every request comes from the local user."""

    def middleware(request: HttpRequest) -> HttpResponse:
        request.user = local_user()
        return get_response(request)

    return middleware


def socket_user(scope: dict[str, Any]) -> AbstractBaseUser | None:
    """The user of a socket as of now, or None: the session is read anew, since it may have ended meanwhile."""
    if not settings.ACCOUNTS:
        return local_user()
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(scope["session"].session_key)
    user = get_user(request)
    return user if user.is_authenticated and user.is_active else None
