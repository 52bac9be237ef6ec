"""Photos that a network learned from, as its card holds them: so that no one among them is scored.

A photo is named by the first bytes of its SHA-256, whatever it is called and whoever is on it: a
corrected label, another table or a renamed folder doesn't hide it.
"""

import base64
import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from common.data.layout import Face

BYTES = 8  # of the digest: two of a million photos have the same once in 37 million times


def short(sha256: str) -> bytes:
    """Shorten a photo's SHA-256 in hexadecimal to the digest that cards hold."""
    return bytes.fromhex(sha256[: 2 * BYTES])


def digest(path: Path) -> bytes:
    """Digest a photo's file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()[:BYTES]


def packed(digests: Iterable[bytes]) -> str:
    """Write digests as text for a card."""
    return base64.b64encode(b"".join(sorted(set(digests)))).decode()


def learned(card: Mapping[str, Any]) -> frozenset[bytes]:
    """Digests of all photos that a checkpoint's weights ever learned from, its ancestors' included.

    Empty for a card that holds none, such as that of foreign weights.
    """
    data = base64.b64decode(card.get("learned", ""))
    return frozenset(data[place : place + BYTES] for place in range(0, len(data), BYTES))


def people_seen(faces: Iterable[Face], seen: Collection[bytes]) -> set[str]:
    """Keys of the people with a photo among those `seen`; reads the photos' files."""
    return {face.person.key for face in faces if digest(face.path) in seen} if seen else set()
