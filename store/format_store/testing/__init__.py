"""A conformance suite: what a codec, compression, key encoding or engine has to keep to be trusted with records.

What belongs here: classes of tests that anybody's package runs in its own pytest, over its own objects. What
never does: anything that the store itself needs; nothing of the store imports this.

    from format_store.testing import CodecConformance

    class TestMine(CodecConformance):
        codec = MyCodec()

Each test is one check, and its docstring is the requirement. Needs the extra ``testing``. The properties run
under the hypothesis profile that is loaded.
"""

from __future__ import annotations

try:
    import hypothesis  # noqa: F401 - only whether it is there
    import pytest
except ImportError as error:
    raise ImportError(
        f"format_store.testing needs {error.name}, which the extra 'testing' brings: "
        "pip install 'storageformat-operator[testing]'",
        name=error.name,
    ) from error

# Before they are imported: so that a check that fails shows its values.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in ("codecs", "compressions", "engines", "keys", "signatures", "staging")
    )
)

from format_store.testing.codecs import CodecConformance  # noqa: E402 - after the rewrite
from format_store.testing.compressions import CompressionConformance  # noqa: E402
from format_store.testing.engines import EngineConformance  # noqa: E402
from format_store.testing.keys import KeyEncodingConformance  # noqa: E402

__all__ = [
    "CodecConformance",
    "CompressionConformance",
    "EngineConformance",
    "KeyEncodingConformance",
]
