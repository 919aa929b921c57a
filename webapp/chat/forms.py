"""Forms: the generation settings, for the page and for frames of the WebSocket alike, and a conversation's title."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _
from wire.messages import MAX_NEW_TOKENS

from chat.models import Conversation

SEEDS = 2**31


class GenerationForm(forms.Form):
    """How an answer is generated; an empty field is the model's own default."""

    max_new_tokens = forms.IntegerField(
        label=_("Maximum answer length, in tokens"), min_value=1, max_value=MAX_NEW_TOKENS, initial=256
    )
    greedy = forms.BooleanField(
        label=_("Always choose the likeliest token"),
        required=False,
        help_text=_("The same question then always gets the same answer."),
    )
    temperature = forms.FloatField(
        label=_("Temperature"),
        required=False,
        min_value=0.05,
        max_value=2,
        help_text=_("Higher values give more surprising answers."),
    )
    top_p = forms.FloatField(
        label=_("Top-p"),
        required=False,
        min_value=0.05,
        max_value=1,
        help_text=_("Only the likeliest tokens that add up to this probability."),
    )
    top_k = forms.IntegerField(
        label=_("Top-k"),
        required=False,
        min_value=0,
        max_value=1000,
        help_text=_("Only this many of the likeliest tokens; 0 means all."),
    )
    seed = forms.IntegerField(
        label=_("Seed"),
        required=False,
        min_value=0,
        max_value=SEEDS - 1,
        help_text=_("Leave empty for a new seed with every answer."),
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, label_suffix="", **kwargs)
        for field in self.fields.values():
            if not isinstance(field, forms.BooleanField):
                field.widget.attrs["inputmode"] = "decimal"
            if isinstance(field, forms.FloatField):
                field.widget.attrs["step"] = "0.05"


def checked_settings(given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Checked generation settings, and what is wrong with them; a missing length becomes the form's default."""
    unknown = sorted(set(given) - set(GenerationForm.base_fields))
    if unknown:
        known = ", ".join(GenerationForm.base_fields)
        return {}, [f"{unknown[0]}: no such setting; the settings are {known}"]
    form = GenerationForm({"max_new_tokens": GenerationForm.base_fields["max_new_tokens"].initial} | given)
    if form.is_valid():
        return form.cleaned_data, []
    return {}, [f"{name}: {text}" for name, texts in form.errors.items() for text in texts]


class TitleForm(forms.ModelForm):
    """A conversation's new title."""

    class Meta:
        """The title and nothing else."""

        model = Conversation
        fields = ("title",)
