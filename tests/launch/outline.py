"""Reads a page as a browser would: what it loads, the numbers it keys, whether every element is closed."""

import html.parser

VOID = {"meta", "link", "img", "br"}


class Outline(html.parser.HTMLParser):
    """What a page loads, the numbers it keys, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.numbers, self.open, self._key = [], [], [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.loads += [given[k] for k in ("src", "srcset", "data", "poster", "action") if k in given]
        self.loads += [given["href"]] if tag == "link" else []
        assert tag != "script"
        assert tag != "a" or given["href"].startswith("#")
        assert tag != "img" or given["alt"]
        self._key = given.get("data-key")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self._key:
            self.numbers.append((self._key, text.strip()))
            self._key = None
