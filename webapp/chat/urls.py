"""Addresses of the chat."""

from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.views import LogoutView
from django.urls import path
from django.views.i18n import set_language

from chat import views

urlpatterns = [
    path("", views.page, name="new"),
    path("c/<uuid:conversation_id>/", views.page, name="conversation"),
    path("c/<uuid:conversation_id>/rename", views.rename, name="rename"),
    path("c/<uuid:conversation_id>/delete", views.delete, name="delete"),
    path("c/<uuid:conversation_id>/export.md", views.export_markdown, name="export-markdown"),
    path("c/<uuid:conversation_id>/export.json", views.export_json, name="export-json"),
    path("c/<uuid:conversation_id>/export.html", views.export_page, name="export-page"),
    path("c/<uuid:conversation_id>/read", views.read, name="read"),
    path("conversations", views.conversations, name="conversations"),
    path("m/<uuid:message_id>/tokens", views.tokens, name="tokens"),
    path("pairs/<uuid:pair_id>/vote", views.vote, name="vote"),
    path("votes.jsonl", views.export_votes, name="export-votes"),
    path("preferences", views.preferences, name="preferences"),
    path("language", login_not_required(set_language), name="language"),
    path("login", views.Login.as_view(), name="login"),
    path("logout", LogoutView.as_view(), name="logout"),
    path("favicon.ico", views.favicon, name="favicon"),
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
]
