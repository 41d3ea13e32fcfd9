"""One line per event on stderr: time, level, what happened, and key=value.

2026-11-23T10:46:39.123Z info gate connected database=orders
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any, Final

_PLAIN: Final = re.compile(r"[\w./:@+,*-]+")
_ROOT: Final = "storageformat"


def configure(level: str) -> None:
    """Send our events, and warnings of libraries, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
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
        self._logger.error("%s", _line(event, {**self._fields, **fields}), exc_info=error)

    def _emit(self, level: int, event: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", _line(event, {**self._fields, **fields}))


def _line(event: str, fields: dict[str, Any]) -> str:
    parts = [event]
    for key, value in fields.items():
        if value is None or value == "":
            continue
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        parts.append(f"{key}={text if _PLAIN.fullmatch(text) else json.dumps(text)}")
    return " ".join(parts)


def _is_no_attempt(record: logging.LogRecord) -> bool:
    """Kopf tells each attempt of each watch to come back, through an outage of hours; we tell once that there is one."""
    return not (
        record.name.startswith("kopf") and record.getMessage().startswith("Request attempt")
    )


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        source = "" if record.name == _ROOT else f"{record.name}: "
        text = f"{moment}.{int(record.msecs):03d}Z {record.levelname.lower()} {source}{record.getMessage()}"
        if not record.exc_info:
            return text
        if source.startswith("kopf"):
            # The API server's answer ended a watch: nothing that is mended by sixty lines of kopf's.
            return f"{text}: {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        return f"{text}\n{self.formatException(record.exc_info)}"
