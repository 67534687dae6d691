"""Record the whole configuration."""

import html

from onepix.config.documents import written
from onepix.config.study import Config
from onepix.files.atomic import replacing
from onepix.files.pages import write_page
from onepix.jobs.inputs import JsonText, Output, read_settings


def run(settings: JsonText, output: Output) -> None:
    """Write the whole configuration with all defaults as YAML, for `onepix.config.study.load`, and as a page."""
    config = read_settings(Config, settings)
    text = written(config.model_dump(mode="json"))
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_page(output, "Configuration", f"<pre>{html.escape(text)}</pre>")
