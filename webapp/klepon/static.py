"""Static files: under names that hold their hash, so that a browser may keep them for good, and served under ASGI."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from whitenoise.middleware import WhiteNoiseMiddleware
from whitenoise.storage import CompressedManifestStaticFilesStorage


class HashedFiles(CompressedManifestStaticFilesStorage):
    """Also rewrites the imports between ES modules. Source maps, which the vendored files name, are not served."""

    support_js_module_import_aggregation = True
    patterns = tuple((kind, rules) for kind, rules in CompressedManifestStaticFilesStorage.patterns if kind != "*.js")


class StaticFiles(WhiteNoiseMiddleware):
    """Sends files whole: under ASGI, Django would read a streamed one whole too, and warn about it."""

    @staticmethod
    def serve(static_file: Any, request: HttpRequest) -> HttpResponse:
        """The file, or that it has not changed."""
        found = static_file.get_response(request.method, request.META)
        content = b""
        if found.file is not None:
            with found.file as file:
                content = file.read()
        response = HttpResponse(content, status=int(found.status))
        del response.headers["Content-Type"]
        for name, value in found.headers:
            response.headers[name] = value
        return response
