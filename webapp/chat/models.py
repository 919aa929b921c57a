"""Conversations as trees of messages: an edit or another answer is a sibling, and nothing that was said is lost."""

import uuid

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _


class Conversation(models.Model):
    """A tree of messages with one owner."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="conversations")
    title = models.CharField(max_length=120)
    created = models.DateTimeField(auto_now_add=True)
    updated = models.DateTimeField(auto_now=True)

    class Meta:
        """Newest first."""

        ordering = ("-updated",)
        indexes = (models.Index(fields=["owner", "-updated"]),)

    def __str__(self) -> str:
        return str(self.id)


class Target(models.TextChoices):
    """Who answers."""

    BASE = "base", _("Original model")
    ADAPTER = "adapter", _("Klepon")
    RIVAL = "rival", _("Klepon")
    """Another adapter, that stands in a pair where the original model does otherwise."""


class Pair(models.Model):
    """Two answers to one prompt with one seed, and the vote, cast before the names are shown.

    One is an adapter's; the other the original model's, or another adapter's.
    """

    class Choice(models.TextChoices):
        """What a person said; `seen` looked at the names without voting, and counts for nothing."""

        BASE = "base", _("Original model")
        ADAPTER = "adapter", _("Klepon")
        RIVAL = "rival", _("Klepon")
        TIE = "tie", _("Equally good")
        BOTH_BAD = "both_bad", _("Both bad")
        SEEN = "seen", _("Looked without voting")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    left = models.CharField(max_length=8, choices=Target.choices)
    """Drawn when the pair is made, so that a reload shows the same order."""
    choice = models.CharField(max_length=8, choices=Choice.choices, blank=True)
    voted = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return str(self.id)


class Message(models.Model):
    """A text of the user or an answer of a model. An answer's id is the id of its generation."""

    class Role(models.TextChoices):
        """Who speaks."""

        USER = "user", _("You")
        ASSISTANT = "assistant", _("Klepon")

    class State(models.TextChoices):
        """How far an answer is. A text of the user has ended from the start."""

        QUEUED = "queued", _("Waiting")
        ENDED = "ended", _("Ended")
        LOST = "lost", _("Lost")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="messages")
    parent = models.ForeignKey("self", models.CASCADE, null=True, blank=True, related_name="children")
    role = models.CharField(max_length=9, choices=Role.choices)
    text = models.TextField(blank=True)
    created = models.DateTimeField(auto_now_add=True)
    changed = models.DateTimeField(auto_now=True)

    # An answer only:
    target = models.CharField(max_length=8, choices=Target.choices, blank=True)
    pair = models.ForeignKey(Pair, models.SET_NULL, null=True, blank=True, related_name="answers")
    state = models.CharField(max_length=8, choices=State.choices, default=State.ENDED)
    finish = models.CharField(max_length=16, blank=True)
    """stop, length, cancelled or error, once it has ended."""
    detail = models.TextField(blank=True)
    """What went wrong: one of wire.messages.Reason."""
    adapter = models.CharField(max_length=160, blank=True)
    """Which adapter, where it is not the chat's own."""
    given = models.TextField(blank=True)
    """What its text began with when it was asked for: the start of another answer, maybe as somebody changed it."""
    system = models.TextField(blank=True)
    """The system prompt that it was asked with."""
    settings = models.JSONField(default=dict, blank=True)
    seed = models.BigIntegerField(null=True, blank=True)
    model = models.CharField(max_length=200, blank=True)
    adapter_sha = models.CharField(max_length=64, blank=True)
    worker = models.CharField(max_length=120, blank=True)
    usage = models.JSONField(default=dict, blank=True)
    timings = models.JSONField(default=dict, blank=True)

    class Meta:
        """Oldest first."""

        ordering = ("created",)
        indexes = (
            models.Index(fields=["conversation", "created"]),
            models.Index(fields=["state"], condition=models.Q(state="queued"), name="chat_message_unended"),
        )

    def __str__(self) -> str:
        return str(self.id)


class Preferences(models.Model):
    """How a person wants answers to be generated."""

    owner = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, related_name="preferences")
    settings = models.JSONField(default=dict)

    class Meta:
        """Django would add another s."""

        verbose_name_plural = "preferences"

    def __str__(self) -> str:
        return str(self.owner)
