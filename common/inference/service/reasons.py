"""Codes for the reasons why a photo is refused, which the page translates."""

import re
from typing import Literal, get_args

Reason = Literal["empty", "small", "large", "heic", "depth", "damaged", "format", "model", "other"]

# In this order: how the reasons of `common.faces.decode` and of the networks begin or read.
_WORDS: dict[str, Reason] = {
    r"empty file": "empty",
    r"\d+ x \d+ pixels; a side has": "small",
    r"more than \d+ (million pixels|MB)": "large",
    r"a JPEG of [\d,]+ scans": "large",
    r"numbers in words": "large",
    r"decoding takes more memory": "large",
    r"(?i)hei[cf]|.*\bHEIC\b": "heic",
    r".*whose white is unknown": "depth",
    r"damaged": "damaged",
    r"not a photo of a known format": "format",
    r"the \w+ model's output": "model",
}
REASON_CODES = get_args(Reason)


def reason_code(reason: str) -> Reason:
    """Find the code of a reason; other if there is none."""
    return next((code for words, code in _WORDS.items() if re.match(words, reason)), "other")
