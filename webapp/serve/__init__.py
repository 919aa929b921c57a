"""Runs the chat app: Redis, the worker, the finalizer and the site, as children of one supervisor."""
