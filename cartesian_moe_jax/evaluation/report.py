"""A measured perplexity in words."""

from typing import Any


def report(result: dict[str, Any]) -> str:
    """Return a line for each number, and a table of the sources of a mixture."""
    sources = result.get("by_source", {})
    lines = [f"{name:16} {value}" for name, value in result.items() if name != "by_source"]
    for source, numbers in sources.items():
        lines.append(
            f"  {source}: perplexity {numbers['perplexity']:.4f}, "
            f"{numbers['bits_per_byte']:.4f} bits per byte, {numbers['tokens']:,} tokens"
        )
    return "\n".join(lines)
