"""Static files under names that hold their hash, so that a browser may keep them for good."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class HashedFiles(CompressedManifestStaticFilesStorage):
    """Also rewrites the imports between ES modules. Source maps, which the vendored files name, are not served."""

    support_js_module_import_aggregation = True
    patterns = tuple((kind, rules) for kind, rules in CompressedManifestStaticFilesStorage.patterns if kind != "*.js")
