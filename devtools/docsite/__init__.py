"""The documentation as a site: ``docs/``, the pages that stand elsewhere, and a reference made from the code.

    stage       the pages as they are written → one folder of pages, links between them rewritten
    reference   CRDs, command line, names: pages made from the code that they are about
    mermaid     the library that draws the diagrams, so that a reader's browser asks nobody else for it
    built       what must be true of the HTML: links, anchors, nothing from elsewhere

The site's generator (Material for MkDocs) sees the folder and ``mkdocs.yml`` and nothing of this: another one that reads
Markdown can take its place.
"""
