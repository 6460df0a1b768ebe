"""Recognises the type of a file by its first bytes; names and headers are never trusted.

Only the types of `object_keys.TYPES` are returned; everything else is an error. The signatures are those of the
formats' specifications. puremagic, which knows a thousand other types, only names a refused one: it takes 0.25 ms a
file, as much as a download costs, calls AVIF and M4A video, and does not recognise many MP4 and MP3 files. Fetch calls
this.
"""

import re

import puremagic

from reconciler.errors import Permanent, Transient

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"ADIF", "audio/aac"),
)
_RIFF_TYPES = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}

# ISO 14496-12 files name their type by brands; the registered ones are at mp4ra.org.
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_AUDIO_BRANDS = frozenset({b"M4A ", b"M4B ", b"F4A ", b"F4B "})
_MP4_BRANDS = frozenset(
    {b"mp41", b"mp42", b"avc1", b"hvc1", b"hev1", b"av01", b"dash", b"MSNV", b"M4V ", b"M4VH"}
    | {b"M4VP", b"F4V ", b"isom", b"iso2", b"iso3", b"iso4", b"iso5", b"iso6", b"iso7", b"iso8"}
    | {b"iso9", b"isoa", b"isob", b"isoc"}
)
_HEIF_BRANDS = frozenset({b"mif1", b"msf1", b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"})
# QuickTime files older than `ftyp` begin with one of these atoms.
_QUICKTIME_ATOMS = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip"})

_SVG = re.compile(rb"<svg[\s>:]|<[\w.-]+:svg[\s>]", re.IGNORECASE)
_UNPRINTABLE = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def sniff(head: bytes) -> str:
    """Return the type of a body by its first 4096 bytes.

    Text raises Transient (not_media), because it is usually an error page. Other types, active content and unknown
    bytes raise Permanent (type_refused).
    """
    mime = _by_signature(head) or _by_iso_box(head) or _by_container(head) or _by_audio_frame(head)
    if mime is not None:
        return mime
    if _is_error_page(head):
        raise Transient("a page came instead of a file", code="not_media")
    raise Permanent(
        f"files of this type are not kept: {_type_name(head)}",
        code="type_refused",
        hint="the source is not an image, a video or a sound",
    )


def _by_signature(head: bytes) -> str | None:
    return next((mime for start, mime in _SIGNATURES if head.startswith(start)), None)


def _by_iso_box(head: bytes) -> str | None:
    size, kind = int.from_bytes(head[:4]), head[4:8]
    if kind in _QUICKTIME_ATOMS:
        return "video/quicktime" if size == 1 or size >= 8 else None
    if kind != b"ftyp" or size < 16:
        return None
    major = head[8:12]
    brands = {major, *(head[at : at + 4] for at in range(16, min(size, len(head)), 4))}
    return _by_brands(major, brands)


def _by_brands(major: bytes, brands: set[bytes]) -> str | None:
    if major == b"qt  ":
        return "video/quicktime"
    if brands & _HEIF_BRANDS or major in _AVIF_BRANDS:
        return "image/avif" if brands & _AVIF_BRANDS else None
    # Videos made by Apple's tools list the brand of audio files too.
    if major in _AUDIO_BRANDS or (brands & _AUDIO_BRANDS and not any(b.startswith(b"M4V") for b in brands)):
        return "audio/mp4"
    return "video/mp4" if brands & _MP4_BRANDS else None


def _by_container(head: bytes) -> str | None:
    if head[:4] in {b"RIFF", b"RF64"}:
        return _RIFF_TYPES.get(head[8:12])
    if head.startswith(b"OggS"):
        # The first page holds the first packet, which begins with the name of the codec.
        return None if b"\x80theora" in head[:64] else "audio/ogg"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        # Matroska and WebM share a format; the DocType element (42 82) tells them apart.
        at = head.find(b"\x42\x82", 4, 64)
        return "video/webm" if at > 0 and b"webm" in head[at + 2 : at + 14] else None
    return None


def _by_audio_frame(head: bytes) -> str | None:
    # MPEG audio without a tag: eleven sync bits, then version, layer, bit rate, sample rate.
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    if head[1] & 0xF6 == 0xF0:
        return "audio/aac" if (head[2] >> 2) & 0xF < 13 else None
    version, layer = (head[1] >> 3) & 3, (head[1] >> 1) & 3
    rate, sampling = head[2] >> 4, (head[2] >> 2) & 3
    layer_three = version != 1 and layer == 1
    return "audio/mpeg" if layer_three and rate not in {0, 15} and sampling != 3 else None


def _is_error_page(head: bytes) -> bool:
    if head.startswith((b"#!", b"%PDF", b"%!")) or _SVG.search(head):
        return False
    return _UNPRINTABLE.search(head) is None


def _type_name(head: bytes) -> str:
    try:
        found = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return "unknown"
    return str(found[0].mime_type or found[0].extension or "unknown")
