"""The report as one HTML page that loads nothing."""

import base64
import html
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.study.page_style import STYLE

# The policy forbids what the page has no need of: any request, and any script.
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{content}
</main>
</body>
</html>
"""
END_OF_TITLE = "</h1>"
AFTER_INLINE = 1
"""A priority: the lower, the later; inline elements are made at 20."""


def page(title: str, text: str, pictures: Mapping[str, bytes]) -> str:
    """Return Markdown as a page; ``pictures`` are the SVG files that it shows, by their path.

    Behind its title comes a table of contents. Raises UserError if the package markdown is
    missing, and KeyError for a picture that is not given.
    """
    try:
        import markdown
    except ImportError:
        raise UserError("the report needs the package markdown (pip install markdown)") from None
    converter = markdown.Markdown(
        extensions=["tables", "toc", "sane_lists", _framing(pictures)],
        extension_configs={"toc": {"toc_depth": "2-2"}},
        output_format="html",
    )
    content = converter.convert(text)
    contents = f'<nav aria-label="Contents">{converter.toc}</nav>'
    content = content.replace(END_OF_TITLE, END_OF_TITLE + contents, 1)
    return PAGE.format(title=html.escape(title), style=STYLE, content=content)


def _framing(pictures: Mapping[str, bytes]) -> Any:
    """Return a markdown extension: tables in boxes that scroll, figures of picture and caption."""
    from markdown.extensions import Extension
    from markdown.treeprocessors import Treeprocessor

    class Frames(Treeprocessor):
        def run(self, root: ElementTree.Element) -> None:
            _frame_tables(root)
            _frame_pictures(root, pictures)

    class Framing(Extension):
        def extendMarkdown(self, md: Any) -> None:
            md.treeprocessors.register(Frames(md), "frames", AFTER_INLINE)

    return Framing()


def _frame_tables(root: ElementTree.Element) -> None:
    for place, child in enumerate(root):
        if child.tag == "table":
            # A box that scrolls must be reachable by keyboard, and then have a name.
            box = ElementTree.Element(
                "div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "Table"}
            )
            box.append(child)
            root[place] = box


def _frame_pictures(root: ElementTree.Element, pictures: Mapping[str, bytes]) -> None:
    """Make figures of paragraphs that hold a picture alone; the next paragraph is the caption."""
    for paragraph in [p for p in root if p.tag == "p" and len(p) == 1 and p[0].tag == "img"]:
        place = list(root).index(paragraph)
        image, caption = paragraph[0], root[place + 1]
        data = base64.b64encode(pictures[image.attrib["src"]]).decode("ascii")
        image.set("src", f"data:image/svg+xml;base64,{data}")
        figure, words = ElementTree.Element("figure"), ElementTree.Element("figcaption")
        words.extend(caption)
        # The caption is emphasised in Markdown alone: as a figure's it has its own look.
        for emphasis in words:
            emphasis.tag = "span"
        figure.extend([image, words])
        root[place] = figure
        root.remove(caption)
