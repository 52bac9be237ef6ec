"""Give mutated photos to the decoder: each must come out as a photo or be refused as a bad one.

    python -m tests.benchmarks.fuzz                     100,000 photos, about ten minutes
    python -m tests.benchmarks.fuzz --photos 1 --first 4711   one of them again

Photo N is the same on every machine with the same Pillow. Ends with status 1 where another error
came out, where decoding took more than 1 GB of memory, and where a photo took longer than 10 s:
then the stack is printed at once.
"""

import argparse
import faulthandler
import multiprocessing
import random
import resource
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from PIL import Image

from common.faces.decode import MAX_PIXELS, MIN_SIDE, BadPhoto, decode
from tests.photos import ACCEPTED, FRAMES, GRAY, PICTURE, exif_photo, file, swapped_profile

PHOTOS = 100_000
LONGEST = 10  # s a photo
MEMORY = 1000  # MB in all
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
COLOURS = Image.fromarray(PICTURE).quantize(4)


def run_length_bmp() -> bytes:
    """A BMP of runs of 8-bit colours, which Pillow reads but doesn't write."""
    runs = b"".join(bytes([24, 1, 24, 2, 0, 0]) for _ in range(60)) + b"\0\2\3\4" + b"\0\1"
    palette = bytes(range(64)) * 16
    start = 14 + 40 + len(palette)
    header = b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start)
    fields = struct.pack("<IiiHHIIiiII", 40, 48, 64, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return header + fields + palette + runs


def largest_photo(kind: str) -> bytes:
    """A file of 40 million pixels of one of the kinds that take the most memory to decode."""
    size, exif = (8000, 5000), Image.Exif()
    exif[0x0112] = 6
    if kind == "TIFF":
        return file("TIFF", Image.new("I", size, 60000), compression="tiff_lzw")
    if kind == "JPEG":
        return file("JPEG", Image.new("RGB", size, "gray"), progressive=True, exif=exif)
    return file(kind, Image.new("RGBA", size, (10, 20, 30, 99)), exif=exif)


SEEDS = {
    "JPEG": file("JPEG", quality=50, icc_profile=swapped_profile(b"Wide")),
    "JPEG, progressive, EXIF": exif_photo(6, progressive=True),
    "JPEG of CMYK": ACCEPTED["CMYK"][0],
    "MPO": file("MPO", **FRAMES),
    "PNG": file("PNG", icc_profile=swapped_profile(b"Wide")),
    "PNG of a palette": ACCEPTED["palette with transparency"][0],
    "PNG of 16 bits": ACCEPTED["16-bit PNG of RGBA"][0],
    "PNG, animated": file("PNG", **FRAMES),
    "GIF": file("GIF", **FRAMES),
    "WebP": ACCEPTED["RGBA in WebP"][0],
    "WebP, animated": file("WEBP", **FRAMES),
    "TIFF": file("TIFF", compression="tiff_lzw"),
    "TIFF of plain gray": file("TIFF", GRAY),
    "BMP": file("BMP", COLOURS),
    "BMP of runs": run_length_bmp(),
    "PPM": file("PPM"),
    "PGM in words": b"P2 20 20 255\n" + b" ".join(b"%d" % (n % 256) for n in range(400)),
}


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def replace_number(data: bytearray, rng: random.Random) -> None:
    """Half of the time in the first 100 bytes, where widths and heights are."""
    width, order = rng.choice((1, 2, 4)), rng.choice("<>")
    place = rng.randrange(min(len(data), 100) if rng.random() < 0.5 else len(data))
    value = rng.choice(EXTREMES) & (256**width - 1)
    number = struct.pack(order + {1: "B", 2: "H", 4: "I"}[width], value)
    data[place : place + width] = number


def splice(data: bytearray, rng: random.Random) -> None:
    """A piece of another photo, or of noise, in the place of a piece."""
    other = SEEDS[rng.choice(list(SEEDS))] if rng.random() < 0.7 else rng.randbytes(200)
    start, length = rng.randrange(len(other)), rng.choice((4, 16, 64, 1000))
    place = rng.randrange(len(data))
    data[place : place + rng.choice((0, length))] = other[start : start + length]


def repeat(data: bytearray, rng: random.Random) -> None:
    """A piece several times, a chunk of a PNG or a segment of a JPEG where the dice say so."""
    place, length = rng.randrange(len(data)), rng.choice((12, 50, 300, 1000))
    start = max(data.rfind(mark, 0, place) for mark in (b"IDAT", b"\xff", b"ANMF", b"\x2c")) - 4
    start = max(start, 0) if rng.random() < 0.5 else place
    data[place:place] = data[start : start + length] * rng.randint(1, 20)


def remove(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    del data[place : place + rng.choice((1, 4, 50))]


def cut_short(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits,
    replace_number,
    replace_number,
    splice,
    repeat,
    remove,
    cut_short,
)


def mend_checksums(data: bytearray) -> None:
    """Make each chunk of a PNG whole again, so that its mutation gets further than the checksum."""
    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[place + 4 : end]))
        place = end + 4


def mutated(seed: str, rng: random.Random) -> bytes:
    """One of SEEDS after one to four mutations."""
    data = bytearray(SEEDS[seed])
    for mutate in rng.choices(MUTATIONS, k=rng.randint(1, 4)):
        if data:
            mutate(data, rng)
    if data.startswith(b"\x89PNG") and rng.random() < 0.8:
        mend_checksums(data)
    return bytes(data)


def outcome(data: bytes) -> str:
    """Decode a file; returns "photo", "bad", or a line on what decode() must not do."""
    try:
        photo = decode(data)
    except BadPhoto as reason:
        return "bad" if str(reason) and "\n" not in str(reason) else f"bad, said as {reason!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    height, width = photo.shape[:2]
    valid = (
        photo.dtype == np.uint8
        and photo.shape == (height, width, 3)
        and min(height, width) >= MIN_SIDE
        and height * width <= MAX_PIXELS
    )
    return "photo" if valid else f"{photo.dtype} of {photo.shape}"


def main() -> int:
    """Print what became of the photos, the slowest and the most memory; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=int, default=PHOTOS)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    found: Counter[str] = Counter()
    slowest = (0.0, 0)
    for number in range(arguments.first, arguments.first + arguments.photos):
        rng = random.Random(number)
        data = mutated(rng.choice(list(SEEDS)), rng)
        faulthandler.dump_traceback_later(LONGEST, exit=True)
        start = time.perf_counter()
        kind = outcome(data)
        slowest = max(slowest, (time.perf_counter() - start, number))
        faulthandler.cancel_dump_traceback_later()
        found[kind] += 1
        if kind not in ("photo", "bad"):
            print(f"photo {number}: {kind}")
        if number % 1000 == 999:
            print(f"{number + 1:,} photos, peak {peak_memory():.0f} MB", flush=True)
    for kind, count in found.most_common():
        print(f"{count:>9,} {kind}")
    print(f"slowest: photo {slowest[1]}, {slowest[0]:.2f} s; most memory: {peak_memory():.0f} MB")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as maker:  # it needs memory
        for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
            data = maker.submit(largest_photo, kind).result()
            print(f"{kind} of {MAX_PIXELS:,} pixels: {outcome(data)}, peak {peak_memory():.0f} MB")
    return int(set(found) - {"photo", "bad"} != set() or peak_memory() > MEMORY)


def peak_memory() -> float:
    """The most memory that this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    sys.exit(main())
