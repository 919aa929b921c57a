"""`python -m serve`: the chat app, until Ctrl-C."""

import asyncio
import sys

from serve import settings
from serve.supervisor import CannotRunError, serve


def main() -> None:
    try:
        asyncio.run(serve(settings.read()))
    except (settings.SettingsError, CannotRunError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        # Before there was anything to end.
        sys.exit(130)


if __name__ == "__main__":
    main()
