#!/usr/bin/env python
"""Django's commands for the site: migrate, collectstatic, finalize, createsuperuser, check --deploy, ..."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "klepon.settings")
    execute_from_command_line(sys.argv)
