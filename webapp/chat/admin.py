"""The admin: states, times and numbers. What people wrote is theirs and is not shown."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest

from chat.models import Conversation, Message, Pair


class ReadOnly(admin.ModelAdmin):
    """Rows can be looked at and deleted."""

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        """Rows come from the chat."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What was said stays said."""
        return False


@admin.register(Conversation)
class ConversationAdmin(ReadOnly):
    """Whose, when and how many messages; no titles, since those are made from prompts."""

    list_display = (
        "id",
        "owner",
        "messages",
        "created",
        "updated",
    )
    list_filter = ("updated",)
    fields = (
        "id",
        "owner",
        "created",
        "updated",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Conversation]:
        """With the number of messages."""
        return super().get_queryset(request).annotate(count=Count("messages"))

    @admin.display(ordering="count")
    def messages(self, conversation: Any) -> int:
        """How many messages it has."""
        return conversation.count


@admin.register(Message)
class MessageAdmin(ReadOnly):
    """How answers went; no texts."""

    list_display = (
        "id",
        "role",
        "target",
        "state",
        "finish",
        "model",
        "worker",
        "created",
    )
    list_filter = (
        "role",
        "target",
        "state",
        "finish",
        "model",
    )
    fields = (
        "id",
        "role",
        "target",
        "state",
        "finish",
        "detail",
        "settings",
        "seed",
        "model",
        "adapter_sha",
        "worker",
        "usage",
        "timings",
        "created",
    )


@admin.register(Pair)
class PairAdmin(ReadOnly):
    """Votes."""

    list_display = (
        "id",
        "left",
        "choice",
        "voted",
    )
    list_filter = ("choice",)
