"""JSON as its standard has it: Python's own writes numbers that other readers refuse."""

import json
import math
from typing import Any


def json_text(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON; numbers that are not finite become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
