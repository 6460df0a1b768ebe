"""Who gets in: the operator by the one token, an end user by a token that the project signed, and nobody else."""

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
from tests.http.tokens import ALICE, BOB, SECRET, Pair, claims, project, shared, written

OPERATOR = "operators-token"
RSA = Pair.of("RS256")


def asking(gate: Authenticator) -> httpx.AsyncClient:
    """Whoever asks for their own name at this gate."""
    app = FastAPI()
    problems.install(app)

    @app.get("/api/me")
    async def me(caller: Caller = Depends(gate.caller)) -> dict[str, object]:
        return {"user": caller.user_id, "operator": caller.operator}

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), verify=False, base_url="http://reconciler")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with asking(Authenticator(OPERATOR, TokenVerifier(SECRET))) as made:
        yield made


async def ask(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.get("/api/me", headers={"Authorization": f"Bearer {token}"})


async def test_the_operators_token_opens_every_row(client: httpx.AsyncClient) -> None:
    answer = await ask(client, OPERATOR)
    assert (answer.status_code, answer.json()) == (200, {"user": None, "operator": True})


async def test_a_users_token_is_its_users(client: httpx.AsyncClient) -> None:
    for user_id in (ALICE, BOB):
        answer = await ask(client, shared(user_id))
        assert (answer.status_code, answer.json()) == (200, {"user": user_id, "operator": False})


def test_a_user_sees_their_own_rows_and_the_operator_every_row() -> None:
    assert [Caller(ALICE).sees(owner) for owner in (ALICE, BOB, None)] == [True, False, False]
    assert [Caller(None).sees(owner) for owner in (ALICE, BOB, None)] == [True, True, True]


NOW = time.time()
WRONG = {
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
    "unsigned": written({"alg": "none", "typ": "JWT"}, claims()),
    "unsigned in capitals": written({"alg": "NONE"}, claims()),
    "without an algorithm": written({"typ": "JWT"}, claims()),
    "a stronger algorithm of the same secret": jwt.encode(claims(), SECRET, "HS512"),
    "signed with a key instead": RSA.token(),
    "too deep a head": f"{'W1tb' * 1500}.e30.e30",
    "too deep a body": jwt.PyJWS().encode(b"[" * 5000, SECRET, "HS256"),
    "an expiry beyond all time": shared(exp=float("inf")),
    "too long": shared(more="x" * 8192),
}


@pytest.mark.parametrize("token", WRONG.values(), ids=WRONG.keys())
async def test_a_token_that_does_not_hold_is_nobodys(token: str, client: httpx.AsyncClient) -> None:
    answer = await ask(client, token)
    assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_every_refusal_says_the_same(client: httpx.AsyncClient) -> None:
    assert len({(await ask(client, token)).text for token in WRONG.values()}) == 1


async def test_a_clock_that_is_a_little_ahead_is_forgiven(client: httpx.AsyncClient) -> None:
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
async def test_only_one_bearer_token_in_the_header_counts(
    headers: list[tuple[str, str]], client: httpx.AsyncClient
) -> None:
    query = {"token": OPERATOR, "access_token": OPERATOR, "authorization": f"Bearer {OPERATOR}"}
    assert (await client.get("/api/me", headers=headers, params=query)).status_code == 401


async def test_the_scheme_may_be_written_small(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/me", headers={"Authorization": f"bearer {OPERATOR}"})).status_code == 200


async def test_where_no_token_is_set_nobody_is_the_operator() -> None:
    async with asking(Authenticator("")) as client:
        for token in ("", " ", "None", shared()):
            assert (await ask(client, token)).status_code == 401


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
async def test_a_token_of_the_projects_own_key_is_its_users(algorithm: str) -> None:
    pair = Pair.of(algorithm)
    async with project(pair) as supabase, asking(Authenticator("", TokenVerifier("", Jwks(supabase.url)))) as client:
        for user_id in (ALICE, BOB):
            assert (await ask(client, pair.token(claims(sub=user_id)))).json()["user"] == user_id


def confused() -> str:
    """The public key taken for a shared secret: what a verifier does that believes the header's algorithm."""
    public = RSA.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = {"alg": "HS256", "kid": RSA.kid}
    signed = written(header, claims()).rpartition(".")[0]
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(signed.encode(), public)
    return written(header, claims(), signature)


FORGED = {
    "the public key as a secret": confused,
    "unsigned": lambda: written({"alg": "none", "kid": RSA.kid}, claims()),
    "another key under this name": lambda: Pair.of("RS256").token(),
    "another kind of key under this name": lambda: Pair.of("ES256", RSA.kid).token(),
    "the right key, another algorithm": lambda: jwt.encode(claims(), RSA.private, "PS256", {"kid": RSA.kid}),
    "no name of a key": lambda: jwt.encode(claims(), RSA.private, "RS256"),
    "a name that is no text": lambda: written({"alg": "RS256", "kid": {"a": 1}}, claims(), b"x"),
    "a shared secret": lambda: jwt.encode(claims(), SECRET, "HS256", {"kid": RSA.kid}),
    "its own key in the header": lambda: Pair.of("RS256", "mine").token(jwk=RSA.public),
    "expired": lambda: RSA.token(claims(exp=time.time() - 60)),
    "the service's role": lambda: RSA.token(claims(role="service_role")),
    "something critical that we do not know": lambda: RSA.token(crit=["moon"], moon=True),
}


@pytest.mark.parametrize("make", FORGED.values(), ids=FORGED.keys())
async def test_a_forged_token_is_nobodys(make: object) -> None:
    async with project(RSA) as supabase, asking(Authenticator("", TokenVerifier("", Jwks(supabase.url)))) as client:
        assert (await ask(client, RSA.token())).status_code == 200
        assert (await ask(client, make())).status_code == 401  # type: ignore[operator]


async def test_while_the_project_is_away_nobody_is_called_a_liar() -> None:
    async with asking(Authenticator(OPERATOR, TokenVerifier("", Jwks("http://127.0.0.1:9")))) as client:
        answer = await ask(client, RSA.token())
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert (await ask(client, OPERATOR)).status_code == 200
        assert (await ask(client, "no token at all")).status_code == 401


async def test_the_settings_decide_who_may_sign() -> None:
    async with project(RSA) as supabase:
        known = {"SUPABASE_URL": supabase.url, "RECONCILER_API_TOKEN": OPERATOR}
        for more, signed, other in (
            ({}, RSA.token(), shared()),
            ({"SUPABASE_JWT_SECRET": SECRET}, shared(), RSA.token()),
        ):
            async with asking(authenticator(settings.load({**known, **more}))) as client:
                told = [(await ask(client, token)).status_code for token in (OPERATOR, signed, other)]
            assert told == [200, 200, 401]
