"""`python -m serve.doctor`: what the chat app needs, what is there, and what to do about the rest."""

import sys

from serve import checks, settings


def main() -> None:
    try:
        asked = settings.read()
    except settings.SettingsError as error:
        sys.exit(f"error: {error}")
    findings = list(checks.everything(asked))
    for finding in findings:
        print(f"{'FIX' if finding.cure else 'OK':<4}  {finding.what:<10}  {finding.found}")
        if finding.cure:
            print(f"{'':<18}-> {finding.cure}")
    sick = sum(bool(finding.cure) for finding in findings)
    sys.exit(f"{sick} of {len(findings)} need fixing" if sick else 0)


if __name__ == "__main__":
    main()
