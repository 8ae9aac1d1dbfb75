#!/usr/bin/env python3
"""A preprocessor of mdBook for links that lead out of docs/.

A Markdown file outside of docs/ becomes a chapter below the first page of the book that links to it; the introduction, which
links to everything, does not count. Links to other files and folders outside lead to the repository. A link to what is not
there fails the build.
"""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent
DOCS = ROOT / "docs"
REPOSITORY = "https://github.com/pillion-mesh/pillion"
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def main():
    if sys.argv[1:2] == ["supports"]:
        return
    _, book = json.load(sys.stdin)
    chapters = book["items"] if "items" in book else book["sections"]
    places = {}  # file -> where the book has it
    for chapter in walk(chapters):
        chapter["file"] = DOCS / chapter["source_path"]
        places[chapter["file"]] = chapter["path"]
    for chapter in list(walk(chapters)):
        if chapter["source_path"] != "README.md":
            adopt(chapter, places)
    for chapter in walk(chapters):
        chapter["content"] = in_text(chapter["content"], lambda link: led(link, chapter, places))
    for chapter in walk(chapters):
        del chapter["file"]
    json.dump(book, sys.stdout)


def walk(items):
    """The chapters, each before those below it."""
    for item in items:
        chapter = item.get("Chapter") if isinstance(item, dict) else None
        if chapter is not None and chapter["path"] is not None:
            yield chapter
            yield from walk(chapter["sub_items"])


def adopt(chapter, places):
    """Puts the pages outside that a chapter links to below it, if no other has them, and theirs below them."""
    for link in LINK.findall(FENCE.sub("", chapter["content"])):
        file = target(link, chapter)
        if file is None or file.suffix != ".md" or file in places or file.is_relative_to(DOCS):
            continue
        content = file.read_text()
        name = file.parent.name if file.name == "README.md" else file.stem.lower()
        path = f"{chapter['path'].removesuffix('index.md').removesuffix('.md').rstrip('/')}/{name}.md"
        places[file] = path
        below = {
            "name": re.match(r"# (.*)", content).group(1),
            "content": content,
            "number": chapter["number"] and chapter["number"] + [len(chapter["sub_items"]) + 1],
            "sub_items": [],
            "path": path,
            "source_path": None,
            "parent_names": chapter["parent_names"] + [chapter["name"]],
            "file": file,
        }
        chapter["sub_items"].append({"Chapter": below})
        adopt(below, places)


def target(link, chapter):
    """The file that a link leads to; None where it leads to the web or within the page."""
    path = link.split("#")[0]
    return (chapter["file"].parent / path).resolve() if path and "://" not in path else None


def led(link, chapter, places):
    """The link as the book has it."""
    file = target(link, chapter)
    if file is None:
        return link
    if not file.exists():
        sys.exit(f"book.py: {chapter['file']} links to {link}, which is not there")
    anchor = "".join(link.partition("#")[1:])
    place = places.get(file) or places.get(file / "README.md")
    if place is None:
        kind = "tree" if file.is_dir() else "blob"
        return f"{REPOSITORY}/{kind}/main/{file.relative_to(ROOT)}{anchor}"
    up = "../" * (len(pathlib.PurePath(chapter["path"]).parts) - 1)
    return f"{up}{place}{anchor}"


def in_text(content, change):
    """The content with its links changed, but for those in code."""
    parts = FENCE.split(content)
    return "".join(part if part.startswith("```") else LINK.sub(lambda link: change(link[0]), part) for part in parts)


main()
