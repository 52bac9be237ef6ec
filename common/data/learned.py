"""Photos that a network learned from, as its card holds them: so that no one among them is scored.

A photo is named by the first bytes of its SHA-256, whatever it is called and whoever is on it: a
corrected label, another table or a renamed folder doesn't hide it.
"""

import base64
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.base.files import sha256
from common.data.layout import Face

BYTES = 8  # of the digest: two of a million photos have the same once in 37 million times


def short(sha256: str) -> bytes:
    """Shorten a photo's SHA-256 in hexadecimal to the digest that cards hold."""
    return bytes.fromhex(sha256[: 2 * BYTES])


def photo_digest(path: Path) -> bytes:
    """Digest a photo's file."""
    return short(sha256(path))


def packed(digests: Iterable[bytes]) -> str:
    """Write digests as text for a card."""
    return base64.b64encode(b"".join(sorted(set(digests)))).decode()


def learned(card: Mapping[str, Any]) -> frozenset[bytes]:
    """Digests of all photos that a checkpoint's weights ever learned from, its ancestors' included.

    Empty for a card that holds none, such as that of foreign weights.
    """
    data = base64.b64decode(card.get("learned", ""))
    return frozenset(data[place : place + BYTES] for place in range(0, len(data), BYTES))


def owners(faces: Iterable[Face]) -> dict[bytes, set[str]]:
    """Digest of each photo → keys of the people who have it; reads the photos' files."""
    found: dict[bytes, set[str]] = defaultdict(set)
    for face in faces:
        found[photo_digest(face.path)].add(face.person.key)
    return found
