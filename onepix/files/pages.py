"""Pages of HTML that run no script."""

from pathlib import Path

from onepix.files.atomic import replacing

# A page shows text from other people's files; the policy forbids scripts, in case such text looks like one.
PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body {{ font: 13px sans-serif; margin: 1em }} pre, code {{ font: 12px monospace; overflow-wrap: anywhere }}
table {{ border-collapse: collapse }} th, td {{ border-bottom: 1px solid #ccc; padding: 3px 8px; text-align: left;
vertical-align: top }} details {{ min-width: 8em }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def write_page(beside: Path, title: str, body: str) -> None:
    """Write a page next to another file, with the same name and .html; `body` is HTML."""
    with replacing(beside.with_suffix(".html")) as temporary:
        temporary.write_text(PAGE.format(title=title, body=body), encoding="utf-8")
