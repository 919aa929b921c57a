"""Django's admin under the site's Content Security Policy."""

from typing import Any

from csp.decorators import csp_replace
from django.contrib import admin
from django.contrib.admin import apps


class AdminSite(admin.AdminSite):
    """Its scripts come with Django and write HTML as strings, so Trusted Types alone is left out on its pages."""

    site_header = site_title = "Klepon"

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        """Wrap a view of the admin."""
        return csp_replace({"require-trusted-types-for": None, "trusted-types": None})(
            super().admin_view(view, cacheable)
        )


class AdminConfig(apps.AdminConfig):
    """The admin app with this site as its default."""

    default_site = "klepon.admin.AdminSite"
