"""Whether a video file was cut short, from its bytes alone."""

from __future__ import annotations

from pathlib import Path


def ends_early(path: Path) -> bool:
    """Whether an mp4, mov, avi, mkv or webm file is shorter than its headers declare; False for other formats.

    Asked of the bytes, because FFmpeg reads such files as far as they go, and because the number of frames that the
    header of an avi declares is wrong in J-HMDB's own.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        if head[:4] == b"RIFF":  # avi
            return 8 + int.from_bytes(head[4:8], "little") > length + 1
        if head[:4] == b"\x1a\x45\xdf\xa3":  # Matroska: a header, then one segment with everything else
            header, start = _matroska_size(head, 4)
            size, start = _matroska_size(head, start + (header or 0) + 4)
            return size is not None and start + size > length
        place = 0
        while place + 8 <= length:  # mp4, mov: a row of boxes
            file.seek(place)
            head = file.read(16)
            size = int.from_bytes(head[:4])
            if size == 1:
                size = int.from_bytes(head[8:16])
            if head[4:8] in (b"mdat", b"moov", b"moof", b"mfra") and size and place + size > length:
                return True
            if size < 8 or not head[4:8].isalnum():
                break
            place += size
    return False


def _matroska_size(data: bytes, place: int) -> tuple[int | None, int]:
    """The size stored at ``place``, None if it is left open, and where the content begins."""
    octets = 9 - data[place].bit_length() if place < len(data) and data[place] else 8
    value = int.from_bytes(data[place : place + octets]) & (1 << 7 * octets) - 1
    return (None if value == (1 << 7 * octets) - 1 or place + octets > len(data) else value), place + octets
