"""One line per event on stderr, as text or as JSON (``lines``): time, level, what happened, and fields.

docs/logs.md lists the events and fields that others may rely on.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

from format_operator.runtime import lines

_ROOT: Final = "storageformat"


def configure(level: str, style: str = lines.TEXT, **process: object) -> None:
    """Send our events, and warnings of libraries, to stderr. ``process``: fields of each JSON line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(process) if style == lines.JSON else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(_ROOT).setLevel(level.upper())
    # kopf and aiohttp tell what they do; what they do is told by our own events already.
    for library in ("kopf", "aiohttp", "asyncio"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.ERROR)
    if not logging.getLogger(_ROOT).isEnabledFor(logging.DEBUG):
        handler.addFilter(_is_no_attempt)


class Log:
    """Events of one part of the process, with fields that stand in each of them."""

    def __init__(self, **fields: object) -> None:
        self._fields = fields
        self._logger = logging.getLogger(_ROOT)

    def bind(self, **fields: object) -> Log:
        return Log(**{**self._fields, **fields})

    def debug(self, event: str, **fields: object) -> None:
        self._emit(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._emit(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._emit(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._emit(logging.ERROR, event, fields)

    def failure(self, event: str, error: BaseException, **fields: object) -> None:
        """An error of ours, with its traceback: somebody has to mend it."""
        self._emit(logging.ERROR, event, fields, error)

    def _emit(
        self,
        level: int,
        event: str,
        fields: dict[str, object],
        error: BaseException | None = None,
    ) -> None:
        if self._logger.isEnabledFor(level):
            told = _Event(event, {**self._fields, **fields})
            self._logger.log(level, "%s", told, exc_info=error)


class _Event:
    """The one argument of our records: its text is the line's, its parts are JSON's."""

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self.name = name
        self.fields = fields

    def __str__(self) -> str:
        return lines.as_text(self.name, self.fields)


def _is_no_attempt(record: logging.LogRecord) -> bool:
    """Kopf tells each attempt of each watch to come back, through an outage of hours; we tell once that there is one."""
    return not (
        record.name.startswith("kopf") and record.getMessage().startswith("Request attempt")
    )


def _is_of_kopf(record: logging.LogRecord) -> bool:
    # The API server's answer ended a watch: nothing that is mended by sixty lines of kopf's.
    return record.name.startswith("kopf")


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        source = "" if record.name == _ROOT else f"{record.name}: "
        moment = lines.moment(record.created)
        text = f"{moment} {record.levelname.lower()} {source}{record.getMessage()}"
        if not record.exc_info:
            return text
        if _is_of_kopf(record):
            return f"{text}: {_named(record)}"
        return f"{text}\n{self.formatException(record.exc_info)}"


class _JsonFormatter(logging.Formatter):
    def __init__(self, process: dict[str, object]) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        told = record.args[0] if isinstance(record.args, tuple) and record.args else None
        if isinstance(told, _Event):
            event, fields = told.name, told.fields
        else:
            event, fields = record.getMessage(), {"logger": record.name}
        if record.exc_info:
            fields = {**fields, "error": _named(record)}
            if not _is_of_kopf(record):
                fields["traceback"] = self.formatException(record.exc_info)
        level = record.levelname.lower()
        return lines.as_json(record.created, level, event, {**self._process, **fields})


def _named(record: logging.LogRecord) -> str:
    error = record.exc_info[1] if record.exc_info else None
    return f"{type(error).__name__}: {error}"
