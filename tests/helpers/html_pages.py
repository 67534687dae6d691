"""Pages that a study writes, read as a browser would."""

from html.parser import HTMLParser

HOSTILE = '</pre></code><script>alert(1)</script><img src="x" onerror="alert(1)">'


class Page(HTMLParser):
    """The text of a page, and its elements."""

    def __init__(self, path):
        super().__init__()
        self.text, self.tags = "", set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.text += data
