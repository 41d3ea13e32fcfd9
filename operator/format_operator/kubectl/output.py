"""Documents for programs."""

from __future__ import annotations

import json
from typing import Any


def document(body: Any, form: str) -> None:
    """Print it as ``json`` or ``yaml``."""
    if form == "json":
        print(json.dumps(body, indent=2))
        return
    import yaml

    print(yaml.safe_dump(body, sort_keys=False, allow_unicode=True).rstrip())
