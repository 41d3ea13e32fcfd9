"""Formats for ``format_store``: the engine ``shelve`` and the codec ``tagged-json``.

Nothing has to be imported by anybody: the entry points in pyproject.toml name what is here.
"""
