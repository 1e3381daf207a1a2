"""Makes a screenshot small: Chromium writes three bytes a pixel, and 256 colors are enough for a page.

Source: PNG specification, third edition, sections 9 (filters) and 11 (chunks).
"""

import struct
import zlib
from collections import Counter

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TRUE_COLOR, INDEXED = 2, 3

Color = tuple[int, ...]


def shrink(png: bytes) -> bytes:
    """Return the picture with 256 of its colors; each other one becomes the nearest of them.

    Raises:
        ValueError: it is not an 8-bit RGB picture, the kind that Chromium writes.
    """
    chunks = list(_chunks(png))
    width, height, depth, kind, _, _, is_interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    if (depth, kind, is_interlaced) != (8, TRUE_COLOR, 0):
        raise ValueError("Only 8-bit RGB pictures can be made small.")
    lines = _lines(zlib.decompress(b"".join(body for name, body in chunks if name == b"IDAT")), width * 3)
    rows = [list(zip(line[::3], line[1::3], line[2::3], strict=True)) for line in lines]
    counted = Counter(color for row in rows for color in row)
    palette = _choose(counted)
    numbers = {color: _nearest(color, palette) for color in counted}
    pixels = b"".join(b"\0" + bytes(numbers[color] for color in row) for row in rows)
    head = struct.pack(">IIBBBBB", width, height, 8, INDEXED, 0, 0, 0)
    parts = [(b"IHDR", head), (b"PLTE", b"".join(map(bytes, palette))), (b"IDAT", zlib.compress(pixels, 9))]
    return SIGNATURE + b"".join(_chunk(name, body) for name, body in [*parts, (b"IEND", b"")])


def _choose(counted: "Counter[Color]") -> list[Color]:
    """Take the most frequent color of each shade first, so that a small blue mark stays blue, then the others."""
    ordered = [color for color, _ in counted.most_common()]
    shades = {tuple(part >> 4 for part in color): color for color in reversed(ordered)}
    return sorted(ordered, key=lambda color: color not in shades.values())[:256]


def _chunks(png: bytes):
    position = len(SIGNATURE)
    while position < len(png):
        length, name = struct.unpack(">I4s", png[position : position + 8])
        yield name, png[position + 8 : position + 8 + length]
        position += 12 + length


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _lines(filtered: bytes, size: int):
    """Undo the filter of each line."""
    above = bytearray(size)
    for start in range(0, len(filtered), size + 1):
        line = bytearray(filtered[start + 1 : start + 1 + size])
        for place in range(size):
            left, corner = (line[place - 3], above[place - 3]) if place >= 3 else (0, 0)
            line[place] = line[place] + _predict(filtered[start], left, above[place], corner) & 255
        yield line
        above = line


def _predict(kind: int, left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    paeth = (
        min((abs(guess - one), order, one) for order, one in enumerate((left, above, corner)))[2] if kind == 4 else 0
    )
    return (0, left, above, (left + above) // 2, paeth)[kind]


def _nearest(color: Color, palette: list[Color]) -> int:
    return min(
        range(len(palette)), key=lambda number: sum((a - b) ** 2 for a, b in zip(palette[number], color, strict=True))
    )
