"""Object keys, the display address, the provider's hosts, the callback address."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.domain.object_keys import (
    MEDIA_KINDS,
    OCTETS,
    PROVIDER_HOSTS,
    TYPES,
    Kind,
    MediaType,
    callback_address,
    content_type,
    display_url,
    extra_type,
    generation_of,
    host_listed,
    kind_of,
    kind_word,
    object_key,
    object_number,
    path_segment,
    points_at_provider,
)

OURS = "https://project.supabase.co/storage/v1/object/public/generations/u/image/g_0.png"
THEIRS = "https://tempfile.aiquickdraw.com/r/x.png"
PREVIEW = "https://project.supabase.co/preview.jpg"


def key(user_id: str | None = "u1", generation_id: str = "g1", n: int = 0) -> str:
    return object_key(user_id=user_id, kind=Kind.IMAGE, generation_id=generation_id, n=n, ext="png")


def test_every_stored_type_of_media_has_the_kind_of_its_mime_type():
    media = {mime: stored.kind for mime, stored in TYPES.items() if stored.kind in MEDIA_KINDS}
    assert all(mime.split("/")[0] == kind.value for mime, kind in media.items())
    assert (TYPES["image/jpeg"].kind, TYPES["image/jpeg"].ext) == (Kind.IMAGE, "jpg")
    assert (TYPES["video/quicktime"].kind, TYPES["video/quicktime"].ext) == (Kind.VIDEO, "mov")
    assert (TYPES["audio/mp4"].kind, TYPES["audio/mp4"].ext) == (Kind.AUDIO, "m4a")


def test_words_are_of_the_kind_text_and_other_documents_of_the_kind_file():
    kinds = {stored.ext: stored.kind for stored in TYPES.values() if stored.kind not in MEDIA_KINDS}
    assert kinds == {
        "txt": Kind.TEXT, "json": Kind.TEXT, "srt": Kind.TEXT, "vtt": Kind.TEXT,
        "pdf": Kind.FILE, "zip": Kind.FILE, "glb": Kind.FILE,
    }  # fmt: skip


def test_no_two_stored_types_share_an_extension():
    assert len({stored.ext for stored in TYPES.values()}) == len(TYPES)


@pytest.mark.parametrize("mime", ["image/svg+xml", "application/pdf"])
def test_a_type_that_may_hold_scripts_is_served_as_bytes_to_be_saved(mime: str):
    assert content_type(mime) == OCTETS
    assert TYPES[mime].attachment


def test_no_type_is_served_as_one_that_browsers_run():
    active = {"text/html", "application/xhtml+xml", "image/svg+xml", "text/xml", "application/xml", "application/pdf"}
    assert not active & {stored.served_as.partition(";")[0] for stored in TYPES.values()}


def test_a_type_that_only_a_setting_names_is_a_file_served_as_bytes():
    assert extra_type("mkv") == MediaType(Kind.FILE, "mkv", OCTETS, attachment=True)
    assert (kind_of("video/x-matroska"), content_type("video/x-matroska")) == (Kind.FILE, OCTETS)
    assert (kind_of("video/mp4"), content_type("video/mp4")) == (Kind.VIDEO, "video/mp4")


def test_a_key_consists_of_user_kind_generation_and_number():
    path = object_key(user_id="u-1", kind=Kind.VIDEO, generation_id="9f.3_a", n=5, ext="mp4")

    assert path == "u-1/video/9f.3_a_5.mp4"


def test_the_key_of_a_row_without_a_user_begins_with_an_underscore():
    assert key(user_id=None) == "_/image/g1_0.png"


def test_a_user_called_underscore_differs_from_no_user():
    assert key(user_id="_") != key(user_id=None)


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param("", id="an empty id"),
        pytest.param(".", id="the folder itself"),
        pytest.param("..", id="the folder above"),
        pytest.param(".hidden", id="a hidden file"),
        pytest.param("../../etc/passwd", id="a way out of the folder"),
        pytest.param("a/b", id="a folder of its own"),
        pytest.param("a%2fb", id="an escaped slash"),
        pytest.param("a\\b", id="a backslash"),
        pytest.param("a\x00b", id="a NUL"),
        pytest.param("a b\n", id="blanks and a line end"),
        pytest.param("ключ", id="letters beyond ASCII"),
        pytest.param("\ud800", id="half a surrogate pair"),
        pytest.param("x" * 4000, id="an id longer than a file name may be"),
    ],
)
def test_a_hostile_id_becomes_one_harmless_name(hostile):
    owner, kind, name = key(user_id=hostile, generation_id=hostile).split("/")

    assert kind == "image"
    for part in (owner, name):
        assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,140}", part)


@given(st.text(), st.text())
@example("a/b", "a-b")
@example("a/b", "a\\b")
@example("x" * 200, "x" * 201)
def test_two_different_ids_never_share_a_key(first, second):
    assert (first == second) == (key(user_id=first) == key(user_id=second))
    assert (first == second) == (key(generation_id=first) == key(generation_id=second))


@given(st.text())
def test_an_id_that_looks_like_a_replacement_gets_another_key(name):
    replaced = key(user_id=f"{name}/").split("/")[0]

    assert key(user_id=replaced) != key(user_id=f"{name}/")


@pytest.mark.parametrize(
    ("asset_url", "result_urls", "preview_url", "expected"),
    [
        pytest.param(OURS, [THEIRS], PREVIEW, OURS, id="our storage comes first"),
        pytest.param(None, [THEIRS, OURS], PREVIEW, THEIRS, id="then the first result"),
        pytest.param("", [THEIRS], None, THEIRS, id="an empty address is none"),
        pytest.param(None, [], PREVIEW, PREVIEW, id="then the preview"),
        pytest.param(None, None, PREVIEW, PREVIEW, id="no results at all: the preview"),
        pytest.param(None, None, None, None, id="nothing to show"),
        pytest.param("javascript:alert(1)", [], None, None, id="a script is not an address"),
        pytest.param("data:text/html,x", [THEIRS], None, THEIRS, id="nor is inline text"),
        pytest.param(None, ["/relative", THEIRS], None, None, id="nor a relative path"),
    ],
)
def test_the_best_available_address_is_displayed(asset_url, result_urls, preview_url, expected):
    assert display_url(asset_url, result_urls, preview_url) == expected


@pytest.mark.parametrize(
    ("url", "listed"),
    [
        pytest.param("https://kie.ai/x.png", True, id="the host itself"),
        pytest.param("https://cdn.kie.ai/x.png", True, id="a host below it"),
        pytest.param("https://CDN.KIE.AI/x.png", True, id="in capitals"),
        pytest.param("https://kie.ai./x.png", True, id="with the root's dot"),
        pytest.param("http://kie.ai:8443/x.png", True, id="on a port of its own"),
        pytest.param("https://evilkie.ai/x.png", False, id="a suffix within a label"),
        pytest.param("https://kie.ai.evil.com/x.png", False, id="a prefix"),
        pytest.param("https://kie.ai@evil.com/x.png", False, id="a user name"),
        pytest.param("https://evil.com/kie.ai", False, id="a path"),
        pytest.param("https://evil.com\\@kie.ai/x.png", False, id="a backslash"),
        pytest.param("https://evil.com\t.kie.ai/x.png", False, id="a tab"),
        pytest.param("ftp://kie.ai/x.png", False, id="another scheme"),
        pytest.param("//kie.ai/x.png", False, id="no scheme"),
        pytest.param("https:///x.png", False, id="no host"),
        pytest.param("https://./x.png", False, id="a host of dots"),
        pytest.param("https://[kie.ai/x.png", False, id="a broken bracket"),
        pytest.param("", False, id="nothing"),
    ],
)
def test_a_suffix_matches_whole_labels_of_a_host_only(url, listed):
    assert host_listed(url, ("example.org", "kie.ai")) is listed


def test_a_suffix_may_be_written_with_a_dot_and_blanks_and_capitals():
    assert host_listed("https://cdn.kie.ai/x", (" .KIE.ai ",))


def test_an_empty_suffix_matches_no_host():
    assert not host_listed("https://cdn.kie.ai/x", ("", "."))


def test_a_star_matches_every_host_but_not_every_string():
    assert host_listed("https://anywhere.example/x", ("*",))
    assert not host_listed("anywhere.example/x", ("*",))


@pytest.mark.parametrize(
    ("url", "suffixes", "expected"),
    [
        pytest.param(THEIRS, PROVIDER_HOSTS, True, id="a result at the provider"),
        pytest.param(OURS, PROVIDER_HOSTS, False, id="an object in our storage"),
        pytest.param(None, PROVIDER_HOSTS, False, id="no address"),
        pytest.param(OURS, ("*",), False, id="a star does not make our storage the provider's"),
        pytest.param(THEIRS, ("*",), True, id="a star alone means the known hosts"),
        pytest.param("https://a.example/x", ("*", "a.example"), True, id="a named host counts"),
        pytest.param(THEIRS, ("a.example",), False, id="a configured list replaces the known hosts"),
    ],
)
def test_an_address_is_the_providers_if_its_host_is(url, suffixes, expected):
    assert points_at_provider(url, suffixes) is expected


@pytest.mark.parametrize(
    "base",
    [
        "https://shop.example",
        "https://shop.example/",
        "https://shop.example/api/kie/callback",
        "https://shop.example/api/kie/callback/",
    ],
)
def test_the_callback_address_is_the_same_with_or_without_the_path(base: str) -> None:
    assert callback_address(base, "", "g1") == "https://shop.example/api/kie/callback?generation=g1"


def test_secret_and_generation_are_escaped_in_a_callback_address() -> None:
    address = urlsplit(callback_address("https://shop.example/kie?tenant=7&secret=old#x", "a&b=c d+é", "g/1?"))
    assert (address.path, address.fragment) == ("/kie/api/kie/callback", "")
    query = parse_qs(address.query, strict_parsing=True)
    assert query == {"tenant": ["7"], "secret": ["a&b=c d+é"], "generation": ["g/1?"]}


def test_an_address_of_ours_tells_the_number_of_its_result() -> None:
    bucket = "https://ours.supabase.co/storage/v1/object/public/generations/u/audio"

    assert object_number("g", f"{bucket}/g_12.mp3") == 12
    assert object_number("g", f"{bucket}/g_1-0123abcd.mp3") == 1
    assert object_number("g", f"{bucket}/h_1.mp3") is None
    assert object_number("g", None) is None


@given(st.text(min_size=1), st.none() | st.text(), st.integers(0, 9999))
@example("a_1", None, 0)
@example("a_0-12345678", "another task", 3)
def test_a_key_tells_its_generation_or_nothing(generation_id: str, replaces: str | None, n: int) -> None:
    made = object_key(user_id=None, kind=Kind.IMAGE, generation_id=generation_id, n=n, ext="png", replaces=replaces)
    found = generation_of(made)
    assert found == (generation_id if path_segment(generation_id) == generation_id else None)


@pytest.mark.parametrize(
    "name", ["", "loose.png", "a/b", "user/image/none.png", "user/image/x_1_.png", "a/b/c/d_1.png"]
)
def test_what_is_no_key_tells_no_generation(name: str) -> None:
    assert generation_of(name) is None


def test_a_bucket_at_a_shared_host_is_not_the_providers() -> None:
    bucket = "https://anybody.r2.cloudflarestorage.com/a.png"
    assert not points_at_provider(bucket, PROVIDER_HOSTS)
    assert not host_listed(bucket, PROVIDER_HOSTS)


@pytest.mark.parametrize(
    ("kind", "allowed", "word"),
    [
        ("image", None, "image"),
        ("image", frozenset({"photo", "product"}), "photo"),
        ("image", frozenset({"product"}), "product"),
        ("audio", frozenset({"photo", "video"}), None),
        ("file", frozenset({"file"}), "file"),
        ("file", frozenset({"photo"}), None),
    ],
)
def test_a_kind_is_written_in_a_word_that_its_column_allows(kind, allowed, word):
    assert kind_word(kind, allowed) == word
