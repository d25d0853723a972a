"""Checks the built site: links inside it lead to a page and a place, nothing comes from elsewhere, no list was lost."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """Collects the links, the places that can be linked to, and the text of paragraphs."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.ids, self.paragraphs = [], [], set(), []
        self.title = self.description = ""
        self._inside = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.update(filter(None, (attrs.get("id"), attrs.get("name"))))
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        for name in ("src", "href"):
            if tag in ("script", "img", "link", "iframe") and attrs.get(name) and attrs.get("rel") != "canonical":
                self.loaded.append(attrs[name])
        if tag == "meta" and attrs.get("name") == "description":
            self.description = attrs.get("content") or ""
        if tag == "p":
            self.paragraphs.append("")
        self._inside.append(tag)

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if self._inside[-1:] == ["title"] and "svg" not in self._inside:
            self.title += data
        if "p" in self._inside and "code" not in self._inside:
            self.paragraphs[-1] += data


def problems(site):
    """What is wrong with the site, a line for each."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    seen = {}
    for path, page in pages.items():
        where = path.relative_to(site)
        for what, text, least, most in (("title", page.title, 5, 100), ("description", page.description, 40, 250)):
            if not least <= len(text) <= most:
                yield f"{where}: its {what} has {len(text)} characters, not {least} to {most}: {text!r}"
            if seen.setdefault((what, text), where) != where:
                yield f"{where}: its {what} is that of {seen[what, text]}: {text!r}"
    for path, page in pages.items():
        where = path.relative_to(site)
        for target in [*page.links, *page.loaded]:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in page.loaded:
                    yield f"{where}: loads {target} from elsewhere"
                continue
            found = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = found / "index.html" if found.is_dir() else found
            if not found.exists():
                yield f"{where}: the link {target} leads nowhere"
            elif parts.fragment and found in pages and unquote(parts.fragment) not in pages[found].ids | {"__top"}:
                yield f"{where}: {target}: the page has no such place"
        for text in page.paragraphs:
            lost = re.search(r"\n(?:- |\d+\. |\| |```)", text)
            if lost:
                yield f"{where}: a list, table or code block without an empty line before it: {text[:60]!r}"


if __name__ == "__main__":
    site = Path(sys.argv[1]).resolve()
    found = list(problems(site))
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{sum(1 for _ in site.rglob('*.html'))} pages, {len(found)} problems")
    raise SystemExit(bool(found))
