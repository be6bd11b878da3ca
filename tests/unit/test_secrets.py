"""What is hidden on its way out of the process, and what must stay readable."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest

from icr_platform.core.secrets import bare_url, redact, remember_secrets_of, shown_url

S = "Zq7planted9Secret"
PEM = f"-----BEGIN RSA PRIVATE KEY-----\nMIIE{S}\n{S}==\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    "text",
    [
        # A URL's user and password.
        f"https://ann:{S}@host/f.jsonl",
        f"could not open 'http://{S}@host:8000/v1': refused",
        f"postgresql+psycopg://icr:{S}@db:5432/mlflow",
        f"postgresql://icr:pa/{S}@db/mlflow",
        f"mysql+pymysql://icr:pa#{S}@db/mlflow?charset=utf8",
        f"https://icr:p?{S}@host/x",
        f"postgresql://icr:12/{S}@db/mlflow",
        f"git remote https://x-access-token:{S}@github.com/org/repo.git failed",
        f"s3://{S}:{S}@minio:9000/bucket",
        f"HTTPS://ann:{S}@HOST/f.jsonl",
        f"https://a@b:{S}@host/x",
        f"two: https://a:{S}@h/x, https://b:{S}@h/y",
        # A signed query, or one that holds a key.
        f"https://b.s3.amazonaws.com/f?X-Amz-Credential={S}%2Fus&X-Amz-Signature={S}&x=1",
        f"https://b.s3.amazonaws.com/f?x-amz-security-token={S}",
        f"https://acc.blob.core.windows.net/c/f?sv=2024&sig={S}%3D",
        f"https://storage.googleapis.com/b/f?X-Goog-Signature={S}",
        f"https://host/f?token={S}",
        f"https://host/f?access_token={S}#top",
        f"https://host/f#access_token={S}",
        f"https://host/f?key={S}&alt=json",
        f"https://host/f?v=1&amp;api_key={S}",
        f"HTTPConnectionPool(host='h', port=80): Max retries exceeded with url: /v1/f?apikey={S} (Caused by X)",
        f"https://host/f?password={S}",
        f"https://host/f?API-Key={S}",
        f"https://host/f?private_token={S}",
        f"https://fn.azurewebsites.net/api/f?code={S}",
        f"https://b.oss.aliyuncs.com/f?OSSAccessKeyId={S}&Expires=1&Signature={S}",
        # Headers.
        f"Authorization: Bearer {S}",
        f"authorization: Basic {base64.b64encode(f'ann:{S}'.encode()).decode()} was refused",
        f"Request headers: {{'Authorization': 'Bearer {S}', 'accept': '*/*'}}",
        f"[('Authorization', 'Bearer {S}')]",
        f"curl -H 'Proxy-Authorization: Basic {S}' x",
        f"x-api-key: {S}",
        f'{{"api-key": "{S}"}}',
        f"invalid bearer {S}",
        # Names with values.
        f"connection to server failed: host=db user=icr password={S} dbname=x",
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={S};EndpointSuffix=x",
        f"api_key = '{S}'",
        f"got {{'judge_api_key': '{S}'}}",
        f'{{"client_secret": "{S}"}}',
        f"aws_secret_access_key: {S}",
        f"OPENAI_API_KEY={S} icr eval",
        f"MLFLOW_TRACKING_PASSWORD={S}",
        f"passwd={S},",
        # Shapes.
        f"Incorrect API key provided: sk-proj-{S}.",
        "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345 Zq7",
        "AKIAZQ7PLANTED9SECRE",
        "ghp_Zq7planted9SecretZq7planted9Secret00",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJacTcifQ.Zq7planted9Secret",
        PEM,
        " ".join(PEM.split()),
        PEM[:60],
    ],
)
def test_a_secret_is_hidden_where_it_stands(text: str) -> None:
    shown = redact(text)
    assert S not in shown
    assert "Zq7" not in shown.removesuffix(" Zq7")
    assert "AKIAZQ" not in shown
    assert "***" in shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "p3 in 'es': field 'max_tokens' is 2400; pad_token='</s>', eos_token: <|im_end|>, tokens=12",
        "https://host:8000/v1/models?version=3&page_token_count=2",
        "postgresql://db:5432/mlflow",
        "http://[::1]:8000/v1",
        "models:/demo-policy@iteration-2 and runs:/0123456789abcdef/responses",
        "https://host/@scope/package and me@example.org",
        "hf://datasets/org/name@refs/convert/parquet/default",
        "github://org:repo@main/path",
        "scikit-learn and sk-learn-contrib; task-based; risk-averse",
        "the judge's key is in JUDGE_KEY; export OPENAI_API_KEY; give --judge-key-variable",
        "HTTP 401: bearer authentication is required; basic understanding",
        "Nombra tres secretos: uno, dos y tres. The password: it is never stored.",
        "hf_transfer, hf_hub_download_with_retries_and_resume",
        "icr: data/en.jsonl: row 3: field 'instruction' is missing; add it",
    ],
)
def test_what_is_not_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text
    assert shown_url(text) == text


@pytest.mark.parametrize(
    "name",
    ["OPENAI_API_KEY", "JUDGE_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID",
     "AWS_SESSION_TOKEN", "PGPASSWORD", "MYSQL_PWD", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "DB_SECRET_FOR_CI",
     "AZURE_STORAGE_CONNECTION_STRING", "lower_api_key", "WANDB_API_KEY"],
)  # fmt: skip
def test_values_of_the_environment_are_hidden_in_every_spelling(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = 'pläntéd "9/=+ Sec\\ret'
    monkeypatch.setenv(name, secret)
    spelt = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret), json.dumps(secret)}
    for form in (*spelt, json.dumps(secret, ensure_ascii=False), " ".join(secret.split())):
        assert redact(f"said {form}, twice: x{form}") in {f"said {q}***{q}, twice: x{q}***{q}" for q in ("", "'", '"')}


@pytest.mark.parametrize(
    ("name", "value"),
    [("PWD", "/srv/data-9"), ("AWS_REGION", "eu-central-1"), ("AWS_PROFILE", "profile-9"), ("HF_TOKEN_PATH", "place-of-it"),
     ("OPENAI_API_KEY", "EMPTY"), ("OPENAI_API_KEY", "x"), ("TOKENIZERS_PARALLELISM", "falsehood"), ("JUDGE_KEY_VARIABLE", "MY_KEY_9"),
     ("MAX_TOKENS", "240000001"), ("SSH_AUTH_SOCK", "/tmp/agent.1")],
)  # fmt: skip
def test_values_of_other_variables_stay(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert redact(f"it is {value}.") == f"it is {value}."


def test_the_password_of_an_address_is_hidden_apart_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://icr:postgres@db/mlflow")
    assert redact("password 'postgres' of postgresql://icr:postgres@db") == "password '***' of postgresql://***@db"
    remember_secrets_of(f"https://ann:{S}%2F@host/f?sig={S}0")
    basic = base64.b64encode(f"ann:{S}/".encode()).decode()
    assert redact(f"{S}/ and {S}%2F and {S}0 and {basic}") == "*** and *** and *** and ***"


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("https://ann:pw@host/f.jsonl?sig=a&sv=1&se=2&page=3", "https://host/f.jsonl?page=3"),
        ("https://b.oss.aliyuncs.com/f?OSSAccessKeyId=a&Expires=1&Signature=b", "https://b.oss.aliyuncs.com/f"),
        ("https://h/f?X-Goog-Algorithm=a&X-Goog-Date=b&X-Goog-Signature=c&generation=7", "https://h/f?generation=7"),
        ("https://h/f?Policy=a&Signature=b&Key-Pair-Id=c", "https://h/f"),
        ("data/en.jsonl?x", "data/en.jsonl?x"),
        ("s3://bucket/key", "s3://bucket/key"),
    ],
)
def test_an_address_that_is_signed_again_is_the_same(url: str, bare: str) -> None:
    assert bare_url(url) == bare
