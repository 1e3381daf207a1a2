"""A QR code as the path of an SVG, drawn here: what it says is nobody else's business."""

import segno

QUIET_ZONE = 4


def draw_qr_code(text: str) -> tuple[int, str]:
    """Return the side of the square, quiet zone included, and the path of its dark modules."""
    rows = segno.make(text, error="m", micro=False).matrix
    path = "".join(
        f"M{x + QUIET_ZONE} {y + QUIET_ZONE}h1v1h-1z"
        for y, row in enumerate(rows)
        for x, is_dark in enumerate(row)
        if is_dark
    )
    return len(rows) + 2 * QUIET_ZONE, path
