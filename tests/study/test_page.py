"""The page stands alone, and a browser shows it whole at the widths of desktops and phones."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from cartesian_moe_jax.study.report import write_report
from tests.study import records

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-logging=stderr",
)
POLICY = "default-src 'none';"
PROBE = """
<script>
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter(
    (e) => !e.closest(".scroll table") && e.getBoundingClientRect().right > innerWidth);
  parent.postMessage(JSON.stringify({
    window: innerWidth,
    page: document.documentElement.scrollWidth,
    pictures: [...document.images].map((image) => image.naturalWidth),
    shown: [...document.images].map((image) => image.getBoundingClientRect().width),
    wide: wide.map((e) => e.tagName),
  }), "*");
});
</script>
"""
# Windows cannot be as narrow as a phone, frames can.
FRAME = """
<script>
addEventListener("message", (found) => document.body.setAttribute("data-found", found.data));
</script>
<iframe src="page.html" width="{width}" height="900" style="border: 0"></iframe>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_report(folder, records.study(), ("smoe_share", "cartesian"), records.ABOUT)
    return (folder / "report.html").read_text()


class Loads(HTMLParser):
    """What a page would fetch, and what it lacks."""

    def __init__(self):
        super().__init__()
        self.addresses, self.tags, self.alts, self.links, self.ids = [], [], [], [], set()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.ids.add(values.get("id"))
        if tag == "a":
            self.links.append(values["href"])
        else:
            self.addresses += [values[k] for k in ("src", "href", "srcset", "data") if k in values]
        if tag == "img":
            self.alts.append(values["alt"])


def test_the_page_loads_nothing(page):
    found = Loads()
    found.feed(page)
    assert all(address.startswith("data:") for address in found.addresses)
    assert found.tags.count("img") == len(found.alts) == found.tags.count("figcaption") == 7
    assert all(found.alts)
    assert not {"script", "iframe", "object", "embed"} & set(found.tags)
    assert not re.search(r"@import|url\(", page)


def test_the_contents_lead_to_the_sections(page):
    found = Loads()
    found.feed(page)
    assert len(found.links) == found.tags.count("h2") == 11
    assert {link.removeprefix("#") for link in found.links} <= found.ids


def test_the_page_says_what_the_markdown_says(page):
    shown = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert "command: python -m cartesian_moe_jax study" in shown
    assert "--methods='a*b_c'" in shown
    assert "text:/data/books <39 MB> | plain & more" in shown
    assert "lr <too> high" in shown
    assert '<td style="text-align: right;">7.19</td>' in page
    assert page.count('class="scroll"') == page.count("<table>") > 10


def test_the_page_is_readable_by_machines_too(page):
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page


def opened(folder, page, width):
    """What a browser finds on the page: of its own measures, and on its console."""
    assert POLICY in page
    probed = page.replace(POLICY, f"{POLICY} script-src 'unsafe-inline';")
    (folder / "page.html").write_text(probed.replace("</body>", f"{PROBE}</body>"))
    (folder / "frame.html").write_text(FRAME.format(width=width))
    done = subprocess.run(
        [
            BROWSER,
            *FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=1400,1000",
            "--virtual-time-budget=5000",
            "--dump-dom",
            str(folder / "frame.html"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])), console


@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on PATH")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_all_of_it(page, tmp_path, width):
    found, console = opened(tmp_path, page, width)
    assert console == []
    assert found["window"] == width
    assert found["page"] <= width
    assert found["wide"] == []
    assert len(found["pictures"]) == 7
    assert min(found["pictures"]) > 0
    assert 300 < min(found["shown"]) <= max(found["shown"]) < width


@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on PATH")
def test_the_browser_would_find_what_is_wrong(page, tmp_path):
    broken = page.replace(
        "</main>",
        '<div style="width: 2000px">wide</div><img src="http://127.0.0.1:9/a.png"></main>',
    )
    found, console = opened(tmp_path, broken, 1280)
    assert found["page"] > 1280
    assert min(found["pictures"]) == 0
    assert any("violates" in line for line in console)
