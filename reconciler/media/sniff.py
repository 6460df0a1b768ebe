"""Recognises the type of a file by its first bytes; a server's headers are never trusted.

Binary types are recognised by the signatures of their formats' specifications, whatever is announced. An announcement
counts only for what has no signature: words, raw sound, and the types that the operator adds. puremagic, which knows a
thousand other types, only names a refused one: it takes 0.25 ms a file, as much as a download costs, calls AVIF and M4A
video, and does not recognise many MP4 and MP3 files. Fetch calls this.
"""

from collections.abc import Mapping

import puremagic

from reconciler.domain.object_keys import PCM, TYPES, MediaType
from reconciler.errors import Permanent, Transient
from reconciler.media import documents

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"ADIF", "audio/aac"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),
    (b"MM\0+", "image/tiff"),
    (b"8BPS\0\1", "image/vnd.adobe.photoshop"),
    (b"8BPS\0\2", "image/vnd.adobe.photoshop"),
    (b"MThd\0\0\0\6", "audio/midi"),
    (b"%PDF-", "application/pdf"),
    (b"PK\3\4", "application/zip"),
    (b"PK\5\6", "application/zip"),
    (b"glTF\1\0\0\0", "model/gltf-binary"),
    (b"glTF\2\0\0\0", "model/gltf-binary"),
)
_RIFF_TYPES = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}

_EBML = b"\x1a\x45\xdf\xa3"

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

# They look like text, but are no words.
_PROGRAMS = (b"#!", b"%!", b"%PDF")


def sniff(
    head: bytes, *, announced: str | None = None, whole: bool = False, types: Mapping[str, MediaType] = TYPES
) -> str:
    """Return the type of a body by its first 4096 bytes; `whole` says that they are all of it.

    `announced` is the MIME type that the provider or the address names, `types` are those that are stored. Raises
    Transient (not_media) for HTML, and for text where no text is announced: it is usually an error page. Raises
    Permanent (type_refused) for other types and unknown bytes.
    """
    mime = _by_signature(head) or _by_iso_box(head) or _by_container(head) or _by_audio_frame(head)
    if mime is not None:
        return mime
    if not head.startswith(_PROGRAMS) and (text := documents.decoded(head)) is not None:
        return _by_text(text, announced, whole=whole, types=types)
    if announced is not None and (announced == PCM or _is_added(announced, types)):
        return announced
    return _by_name(head, types)


def _is_added(mime: str, types: Mapping[str, MediaType]) -> bool:
    return mime in types and mime not in TYPES


def _by_text(text: str, announced: str | None, *, whole: bool, types: Mapping[str, MediaType]) -> str:
    if not documents.is_page(text, whole=whole):
        if documents.is_drawing(text):
            return "image/svg+xml"
        if mime := documents.announced_text(text, announced, whole=whole):
            return mime
        if announced is not None and _is_added(announced, types):
            return announced
        if announced not in TYPES and documents.is_text_type(announced or ""):
            raise _refused(announced or "")
    raise Transient("a page came instead of a file", code="not_media")


def _by_name(head: bytes, types: Mapping[str, MediaType]) -> str:
    """Return the added type by whose name puremagic calls these bytes; raise Permanent if there is none."""
    # It takes some files for a type that we store, although our own table of signatures has said that they are not.
    names = [name for name in _names(head) if name not in TYPES]
    for mime, found in types.items():
        if _is_added(mime, types) and not {mime, f".{found.ext}"}.isdisjoint(names):
            return mime
    raise _refused(names[0] if names else "unknown")


def _refused(name: str) -> Permanent:
    return Permanent(
        f"files of this type are not kept: {name}",
        code="type_refused",
        hint="if it is a result, add its type and the extension of its address to RECONCILER_EXTRA_TYPES",
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
    if head.startswith(b"FORM"):
        return "audio/aiff" if head[8:12] in {b"AIFF", b"AIFC"} else None
    if head.startswith(b"OggS"):
        # The first page holds the first packet, which begins with the name of the codec.
        return None if b"\x80theora" in head[:64] else "audio/ogg"
    if head.startswith(_EBML):
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


def _names(head: bytes) -> list[str]:
    """Return what puremagic calls these bytes, the likeliest first: MIME types, or extensions where it knows none."""
    if head.startswith(_EBML):
        # It has a different name for Matroska from file to file.
        return ["video/x-matroska"]
    try:
        found = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return []
    return [name for each in found if (name := str(each.mime_type or each.extension))]
