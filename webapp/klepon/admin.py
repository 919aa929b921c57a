"""Django's admin under the site's Content Security Policy."""

from typing import Any

from csp.decorators import csp_replace
from django.contrib import admin
from django.contrib.admin import apps
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache


class AdminSite(admin.AdminSite):
    """Its scripts come with Django and write HTML as strings, so Trusted Types alone is left out on its pages."""

    site_header = site_title = "Klepon"

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        """Wrap a view of the admin."""
        return csp_replace({"require-trusted-types-for": None, "trusted-types": None})(
            super().admin_view(view, cacheable)
        )

    @property
    def login_form(self) -> Any:
        """That of the site's one lock. It needs the apps, which are loaded after this module."""
        from chat.lockout import AdminLoginForm

        return AdminLoginForm

    @method_decorator(never_cache)
    @login_not_required
    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The admin's own log-in page."""
        from chat import lockout

        answer = super().login(request, extra_context)
        if form := (getattr(answer, "context_data", None) or {}).get("form"):
            answer.status_code = lockout.TOO_MANY if lockout.is_locked(form) else answer.status_code
        return answer


class AdminConfig(apps.AdminConfig):
    """The admin app with this site as its default."""

    default_site = "klepon.admin.AdminSite"
