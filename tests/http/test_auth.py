"""Authentication: the operator's token, end users' tokens signed by the project, and everything that is refused."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import Depends, FastAPI

from reconciler import settings
from reconciler.bootstrap.http import authenticator
from reconciler.http import problems
from reconciler.http.auth import Authenticator, Caller, TokenVerifier
from reconciler.net.jwks import Jwks
from tests.http.tokens import ALICE, BOB, SECRET, Pair, assembled, claims, project, shared

OPERATOR = "operators-token"
RSA = Pair.of("RS256")


def client_of(authenticator: Authenticator) -> httpx.AsyncClient:
    """Return a client of an application whose only route returns the caller."""
    app = FastAPI()
    problems.install(app)

    @app.get("/api/me")
    async def me(caller: Caller = Depends(authenticator.caller)) -> dict[str, object]:
        return {"user": caller.user_id, "operator": caller.operator}

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), verify=False, base_url="http://reconciler")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(Authenticator(OPERATOR, TokenVerifier(SECRET))) as opened:
        yield opened


async def ask(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.get("/api/me", headers={"Authorization": f"Bearer {token}"})


async def test_the_operators_token_identifies_the_operator(client: httpx.AsyncClient) -> None:
    answer = await ask(client, OPERATOR)
    assert (answer.status_code, answer.json()) == (200, {"user": None, "operator": True})


async def test_a_users_token_identifies_the_user(client: httpx.AsyncClient) -> None:
    for user_id in (ALICE, BOB):
        answer = await ask(client, shared(user_id))
        assert (answer.status_code, answer.json()) == (200, {"user": user_id, "operator": False})


NOW = time.time()
INVALID = {
    "nothing": "",
    "noise": "noise",
    "the operator's token cut short": OPERATOR[:-1],
    "the operator's token and more": OPERATOR + "x",
    "a wrong secret": jwt.encode(claims(), SECRET[::-1], "HS256"),
    "expired": shared(exp=NOW - 60),
    "no expiry": shared(exp=None),
    "an expiry that is no number": shared(exp="soon"),
    "not valid yet": shared(nbf=NOW + 3600),
    "issued in the future": shared(iat=NOW + 3600),
    "another audience": shared(aud="anon"),
    "no audience": shared(aud=None),
    "no subject": jwt.encode(claims(sub=None), SECRET, "HS256"),
    "an empty subject": shared(""),
    "a long subject": shared("x" * 201),
    "an unprintable subject": shared("a\nb"),
    "a subject that is a number": jwt.encode(claims(sub=None) | {"sub": 7}, SECRET, "HS256"),
    "the service's own key": jwt.encode({"role": "service_role", "exp": NOW + 60}, SECRET, "HS256"),
    "the service's role": shared(role="service_role"),
    "the anonymous key": jwt.encode({"role": "anon", "iss": "supabase", "exp": NOW + 60}, SECRET, "HS256"),
    "the anonymous role": shared(role="anon"),
    "no role": shared(role=None),
    "unsigned": assembled({"alg": "none", "typ": "JWT"}, claims()),
    "unsigned in capitals": assembled({"alg": "NONE"}, claims()),
    "without an algorithm": assembled({"typ": "JWT"}, claims()),
    "a stronger algorithm of the same secret": jwt.encode(claims(), SECRET, "HS512"),
    "signed with a key instead": RSA.token(),
    "too deep a head": f"{'W1tb' * 1500}.e30.e30",
    "too deep a body": jwt.PyJWS().encode(b"[" * 5000, SECRET, "HS256"),
    "an expiry beyond all time": shared(exp=float("inf")),
    "too long": shared(more="x" * 8192),
}


@pytest.mark.parametrize("token", INVALID.values(), ids=INVALID.keys())
async def test_an_invalid_token_is_refused(token: str, client: httpx.AsyncClient) -> None:
    answer = await ask(client, token)
    assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_every_refusal_has_the_same_text(client: httpx.AsyncClient) -> None:
    assert len({(await ask(client, token)).text for token in INVALID.values()}) == 1


async def test_a_clock_difference_of_a_few_seconds_is_tolerated(client: httpx.AsyncClient) -> None:
    assert (await ask(client, shared(exp=time.time() - 3))).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", OPERATOR)],
        [("Authorization", f"Basic {OPERATOR}")],
        [("Authorization", f"Bearer {OPERATOR}"), ("Authorization", f"Bearer {OPERATOR}")],
        [("X-Api-Token", OPERATOR)],
        [("Cookie", f"token={OPERATOR}")],
    ],
)
async def test_only_a_single_bearer_token_in_the_header_is_accepted(
    headers: list[tuple[str, str]], client: httpx.AsyncClient
) -> None:
    query = {"token": OPERATOR, "access_token": OPERATOR, "authorization": f"Bearer {OPERATOR}"}
    assert (await client.get("/api/me", headers=headers, params=query)).status_code == 401


async def test_the_scheme_may_be_in_lower_case(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/me", headers={"Authorization": f"bearer {OPERATOR}"})).status_code == 200


async def test_without_a_configured_token_nobody_is_the_operator() -> None:
    async with client_of(Authenticator("")) as client:
        for token in ("", " ", "None", shared()):
            assert (await ask(client, token)).status_code == 401


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
async def test_a_token_signed_with_a_key_of_the_project_identifies_the_user(algorithm: str) -> None:
    pair = Pair.of(algorithm)
    async with project(pair) as supabase, client_of(Authenticator("", TokenVerifier("", Jwks(supabase.url)))) as client:
        for user_id in (ALICE, BOB):
            assert (await ask(client, pair.token(claims(sub=user_id)))).json()["user"] == user_id


def signed_with_public_key() -> str:
    """Return a token signed with the public key as a shared secret: it fools a verifier that trusts `alg`."""
    public = RSA.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = {"alg": "HS256", "kid": RSA.kid}
    signing_input = assembled(header, claims()).rpartition(".")[0]
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(signing_input.encode(), public)
    return assembled(header, claims(), signature)


FORGED = {
    "the public key as a secret": signed_with_public_key,
    "unsigned": lambda: assembled({"alg": "none", "kid": RSA.kid}, claims()),
    "another key under this name": lambda: Pair.of("RS256").token(),
    "another kind of key under this name": lambda: Pair.of("ES256", RSA.kid).token(),
    "the right key, another algorithm": lambda: jwt.encode(claims(), RSA.private, "PS256", {"kid": RSA.kid}),
    "no name of a key": lambda: jwt.encode(claims(), RSA.private, "RS256"),
    "a name that is no text": lambda: assembled({"alg": "RS256", "kid": {"a": 1}}, claims(), b"x"),
    "a shared secret": lambda: jwt.encode(claims(), SECRET, "HS256", {"kid": RSA.kid}),
    "its own key in the header": lambda: Pair.of("RS256", "mine").token(jwk=RSA.public),
    "expired": lambda: RSA.token(claims(exp=time.time() - 60)),
    "the service's role": lambda: RSA.token(claims(role="service_role")),
    "something critical that we do not know": lambda: RSA.token(crit=["moon"], moon=True),
}


@pytest.mark.parametrize("make", FORGED.values(), ids=FORGED.keys())
async def test_a_forged_token_is_refused(make: object) -> None:
    async with project(RSA) as supabase, client_of(Authenticator("", TokenVerifier("", Jwks(supabase.url)))) as client:
        assert (await ask(client, RSA.token())).status_code == 200
        assert (await ask(client, make())).status_code == 401  # type: ignore[operator]


async def test_while_the_keys_cannot_be_fetched_the_answer_is_503_and_not_401() -> None:
    async with client_of(Authenticator(OPERATOR, TokenVerifier("", Jwks("http://127.0.0.1:9")))) as client:
        answer = await ask(client, RSA.token())
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert (await ask(client, OPERATOR)).status_code == 200
        assert (await ask(client, "no token at all")).status_code == 401


async def test_the_settings_choose_between_shared_secret_and_public_keys() -> None:
    async with project(RSA) as supabase:
        known = {"SUPABASE_URL": supabase.url, "RECONCILER_API_TOKEN": OPERATOR}
        for more, signed, other in (
            ({}, RSA.token(), shared()),
            ({"SUPABASE_JWT_SECRET": SECRET}, shared(), RSA.token()),
        ):
            async with client_of(authenticator(settings.load({**known, **more}))) as client:
                statuses = [(await ask(client, token)).status_code for token in (OPERATOR, signed, other)]
            assert statuses == [200, 200, 401]
