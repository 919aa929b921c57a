"""`manage.py votes FILE`: the votes of everybody as preference data, for `make preference`."""

from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandParser

from chat import exports


class Command(BaseCommand):
    """The export of all votes."""

    help = "Write the blind votes of everybody to a file, as preference data (JSON lines)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)

    def handle(self, *_: Any, file: Path, **options: Any) -> None:
        """Write the file."""
        with file.open("w", encoding="utf-8") as written:
            for user in get_user_model().objects.order_by("pk"):
                written.writelines(exports.preference_lines(user))
