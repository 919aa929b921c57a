"""Pages, and the small requests that they make."""

import logging
import re
import time
from dataclasses import replace
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.views import LoginView
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.templatetags.static import static
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST
from wire.messages import Request, Seen
from wire.service import UnavailableError

from chat import exports, lockout, samples, turns
from chat.forms import GenerationForm, TitleForm
from chat.frames import MAX_FRAME, MAX_TEXT, FrameError
from chat.hub import Hub
from chat.models import Conversation, Message, Pair, Preferences, Target
from chat.payloads import message_json, reason_text
from chat.queries import OVERLAP_SECONDS
from chat.strings import browser_strings

log = logging.getLogger(__name__)

SHOWN = 200
"""Conversations that are listed at a time."""


def chrome(request: HttpRequest) -> dict[str, Any]:
    """Context of every page: the theme that was chosen, and whether there are accounts."""
    theme = request.COOKIES.get("theme")
    return {"theme": theme if theme in ("light", "dark") else "auto", "accounts": settings.ACCOUNTS}


@require_GET
@never_cache
def page(request: HttpRequest, conversation_id: UUID | None = None) -> HttpResponse:
    """The chat: with a conversation, or ready for a new one."""
    now = time.time() - OVERLAP_SECONDS
    conversation, messages = None, []
    if conversation_id:
        conversation = get_object_or_404(Conversation, id=conversation_id, owner=request.user)
        messages = list(conversation.messages.select_related("pair"))
    query = request.GET.get("q", "")
    chosen = Preferences.objects.filter(owner=request.user).first()
    form = GenerationForm(initial=chosen.settings if chosen else None)
    data = {
        "user": str(request.user.pk),
        "conversation": str(conversation.id) if conversation else None,
        "messages": [message_json(message) for message in messages],
        "now": now,
        "limit": MAX_TEXT,
        "frame": MAX_FRAME,
        "strings": browser_strings(),
        "urls": {
            "socket": "/ws",
            "new": reverse("new"),
            "conversations": reverse("conversations"),
            "login": reverse("login"),
        },
    }
    rows, following = _listed(request)
    context = {
        "conversation": conversation,
        "conversations": rows,
        "next": following,
        "votes": Pair.objects.filter(answers__conversation__owner=request.user, choice__in=Target.values).exists(),
        "query": query,
        "form": form,
        "samples": samples.of_adapter(settings.ADAPTER),
        "data": data,
    }
    return render(request, "chat/page.html", context)


@require_GET
@never_cache
def conversations(request: HttpRequest) -> JsonResponse:
    """The list of conversations, or those that hold what is searched for, after the first `from` of them.

    Of the page's own user alone: the browser may have logged somebody else in since.
    """
    if request.GET.get("user", str(request.user.pk)) != str(request.user.pk):
        return JsonResponse({}, status=401)
    rows, following = _listed(request)
    return JsonResponse({"conversations": rows, "next": following})


@require_POST
def rename(request: HttpRequest, conversation_id: UUID) -> HttpResponseBase:
    """Give a conversation another title."""
    conversation = get_object_or_404(Conversation, id=conversation_id, owner=request.user)
    form = TitleForm(request.POST, instance=conversation)
    if not form.is_valid():
        return JsonResponse({"errors": form.errors}, status=400)
    # Without touching `updated`: a new title does not move a conversation up the list.
    Conversation.objects.filter(id=conversation.id).update(title=form.cleaned_data["title"])
    return _done(request, "conversation", conversation_id, title=form.cleaned_data["title"])


@require_POST
def delete(request: HttpRequest, conversation_id: UUID) -> HttpResponseBase:
    """Delete a conversation, and stop what is being written for it."""
    conversation = get_object_or_404(Conversation, id=conversation_id, owner=request.user)
    waiting = conversation.messages.filter(state=Message.State.QUEUED).values_list("id", flat=True)
    gids = [str(one) for one in waiting]
    Pair.objects.filter(answers__conversation=conversation).delete()
    conversation.delete()
    if gids:
        async_to_sync(_cancel)(gids)
    return _done(request, "new")


@require_GET
def export_markdown(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """One branch of a conversation: that of the message `leaf`, or the newest."""
    conversation, path = _branch(request, conversation_id)
    text = exports.as_markdown(conversation, path)
    return _file(HttpResponse(text, content_type="text/markdown; charset=utf-8"), conversation.title, "md")


@require_GET
def export_page(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """The same as a page in one file, to give to others."""
    conversation, path = _branch(request, conversation_id)
    page = exports.as_page(conversation, path, alone=True)
    return _file(HttpResponse(page, content_type="text/html; charset=utf-8"), conversation.title, "html")


@require_GET
@never_cache
def read(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """The same to read here, for browsers without scripts."""
    conversation, path = _branch(request, conversation_id)
    return HttpResponse(exports.as_page(conversation, path, alone=False))


@require_GET
def export_json(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """A conversation with all its branches."""
    conversation = get_object_or_404(Conversation, id=conversation_id, owner=request.user)
    value = exports.as_json(conversation, list(conversation.messages.select_related("pair")))
    options = {"ensure_ascii": False, "indent": 1}
    return _file(JsonResponse(value, json_dumps_params=options), conversation.title, "json")


@require_GET
def export_votes(request: HttpRequest) -> HttpResponse:
    """All blind votes as preference data."""
    lines = list(exports.preference_lines(request.user))
    return _file(HttpResponse(lines, content_type="application/jsonl; charset=utf-8"), "klepon-votes", "jsonl")


@require_GET
@never_cache
def tokens(request: HttpRequest, message_id: UUID) -> HttpResponse:
    """A finished answer token by token (wire.messages.Seen as JSON), or why not, in words."""
    message = get_object_or_404(
        Message.objects.select_related("conversation", "parent"),
        id=message_id,
        conversation__owner=request.user,
        role=Message.Role.ASSISTANT,
        state=Message.State.ENDED,
    )
    if not message.text and message.finish != "stop":
        return JsonResponse({"error": _("Nothing was written, so there is nothing to show.")}, status=409)
    try:
        (asked,) = turns.requests_for([message])
        seen = async_to_sync(_look)(replace(asked, given=""), message)
    except turns.UnfinishedError:
        return JsonResponse({"error": _("Answers above this one are not finished.")}, status=409)
    except FrameError:
        return JsonResponse({"error": _("An answer above this one is empty.")}, status=409)
    except UnavailableError:
        return JsonResponse({"error": _("The queue is not responding. Try again.")}, status=503)
    if seen is None:
        return JsonResponse({"error": _("No model answered in time.")}, status=503)
    if seen.reason:
        return JsonResponse({"error": reason_text(seen.reason)}, status=409)
    return HttpResponse(seen.to_json(), content_type="application/json")


@require_POST
def vote(request: HttpRequest, pair_id: UUID) -> JsonResponse:
    """Vote on a pair, once: what comes after the names are known is not blind."""
    pair = get_object_or_404(Pair.objects.filter(answers__conversation__owner=request.user).distinct(), id=pair_id)
    choice = request.POST.get("choice", "")
    if choice not in Pair.Choice.values or (
        choice in Target.values and not pair.answers.filter(target=choice).exists()
    ):
        return JsonResponse({"error": _("There is no such choice.")}, status=400)
    if choice != Pair.Choice.SEEN:
        if pair.answers.filter(state=Message.State.QUEUED).exists():
            return JsonResponse({"error": _("Both answers must be finished first.")}, status=409)
        # As in chat.exports, which would leave it out.
        if pair.answers.exclude(finish="stop").exists():
            return JsonResponse(
                {"error": _("An answer did not come to its end, so a vote would not count.")}, status=409
            )
    new = Pair.objects.filter(id=pair.id, choice="").update(choice=choice, voted=timezone.now())
    pair.answers.update(changed=timezone.now())
    pair.refresh_from_db()
    return JsonResponse({"id": str(pair.id), "left": pair.left, "choice": pair.choice}, status=200 if new else 409)


@require_POST
def preferences(request: HttpRequest) -> HttpResponseBase:
    """Keep the generation settings."""
    form = GenerationForm(request.POST)
    if not form.is_valid():
        return JsonResponse({"errors": form.errors}, status=400)
    Preferences.objects.update_or_create(owner=request.user, defaults={"settings": form.cleaned_data})
    return _done(request, "new", settings=form.cleaned_data)


class Login(LoginView):
    """Log-in that lets nobody try all passwords."""

    template_name = "chat/login.html"
    authentication_form = lockout.LoginForm
    redirect_authenticated_user = True

    def form_invalid(self, form: Any) -> HttpResponse:
        """Say why."""
        answer = super().form_invalid(form)
        if lockout.is_locked(form):
            answer.status_code = lockout.TOO_MANY
        return answer


@login_not_required
@require_GET
def favicon(request: HttpRequest) -> HttpResponseBase:
    """Where browsers look without being told."""
    return redirect(static("chat/klepon.svg"))


@login_not_required
@require_GET
def healthz(request: HttpRequest) -> HttpResponse:
    """The site runs."""
    return HttpResponse("ok\n", content_type="text/plain")


@login_not_required
async def readyz(request: HttpRequest) -> HttpResponse:
    """All that an answer needs is there: Redis and a worker."""
    try:
        workers = await Hub.here().service.workers()
    except UnavailableError:
        return HttpResponse("the queue is not responding\n", status=503, content_type="text/plain")
    if not workers:
        return HttpResponse("no model is running\n", status=503, content_type="text/plain")
    return HttpResponse("ok\n", content_type="text/plain")


async def _look(asked: Request, message: Message) -> Seen | None:
    return await Hub.here().service.look(asked, message.text, message.finish == "stop")


async def _cancel(gids: list[str]) -> None:
    try:
        for gid in gids:
            await Hub.here().service.cancel(gid)
    except UnavailableError:
        log.warning("%d answers of a deleted conversation go on: the queue is not responding", len(gids))


def _found(request: HttpRequest, query: str) -> QuerySet[Conversation]:
    rows = Conversation.objects.filter(owner=request.user)
    if words := query.split():
        for word in words[:8]:
            said = Message.objects.filter(conversation__owner=request.user, text__icontains=word)
            rows = rows.filter(Q(title__icontains=word) | Q(id__in=said.values("conversation_id")))
    return rows


def _listed(request: HttpRequest) -> tuple[list[dict[str, Any]], int | None]:
    """Some rows of the list, and where those after them begin, if there are any."""
    given = request.GET.get("from", "")
    first = int(given) if given.isdecimal() and len(given) < 8 else 0
    found = _found(request, request.GET.get("q", ""))[first : first + SHOWN + 1]
    return [_row(one) for one in found[:SHOWN]], first + SHOWN if len(found) > SHOWN else None


def _branch(request: HttpRequest, conversation_id: UUID) -> tuple[Conversation, list[Message]]:
    conversation = get_object_or_404(Conversation, id=conversation_id, owner=request.user)
    messages = list(conversation.messages.select_related("pair"))
    leaf = next((message for message in messages if str(message.id) == request.GET.get("leaf")), None)
    return conversation, exports.to_read(messages, leaf)


def _row(conversation: Conversation) -> dict[str, Any]:
    return {
        "updated": conversation.updated.isoformat(),
        "date": date_format(conversation.updated, "SHORT_DATE_FORMAT"),
        "id": str(conversation.id),
        "title": conversation.title,
        "url": reverse("conversation", args=[conversation.id]),
    }


def _done(request: HttpRequest, where: str, *args: Any, **value: Any) -> HttpResponseBase:
    """Answer a script with JSON, and a plain form with the next page."""
    if request.headers.get("Accept") == "application/json":
        return JsonResponse(value)
    return redirect(where, *args)


def _file(response: HttpResponse, name: str, ending: str) -> HttpResponse:
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or "klepon"
    response.headers["Content-Disposition"] = content_disposition_header(True, f"{plain}.{ending}")
    return response
