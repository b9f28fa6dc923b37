"""Text that strangers wrote, made inert: no control character reaches a terminal, a table or a page."""

import re

# C0 and C1 controls (ANSI escapes begin with one), line and paragraph separators, and the characters that turn the
# direction of writing (Unicode bidirectional algorithm, UAX 9), with which a name can disguise itself.
_ACTIVE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def inert(text: str, longest: int = 200) -> str:
    """The text with every active character shown as its code, cut after `longest` characters."""
    shown = _ACTIVE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def inert_lines(text: str, longest: int = 2000) -> str:
    """Like `inert`, for a message of several lines: line breaks stay."""
    return "\n".join(inert(line, longest) for line in text.splitlines())
