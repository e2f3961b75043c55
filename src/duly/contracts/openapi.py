"""The one OpenAPI 3.1 document: security, error schemas, and nothing that FastAPI adds but Duly does not do."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from duly.contracts.accounts.admission import REGISTRATION_HEADER
from duly.contracts.accounts.models import AccountsError, AccountsValidationError
from duly.contracts.owner.models import OwnerError, OwnerValidationError
from duly.contracts.v1.auth_models import LoginRequest
from duly.contracts.v1.credentials import LoginForm
from duly.contracts.v1.fields import LEAST_NEW_PASSWORD
from duly.contracts.v1.models import Problem, ValidationProblem
from duly.settings import Settings

_SIGN_IN = "with `POST /api/v1/auth/login` and send the access token as `Authorization: Bearer …`."
_SIGN_IN_ELSEWHERE = "at the issuer that this server trusts, and send its token as `Authorization: Bearer …`."
_DESCRIPTION = """\
Every address below `/api/v1` also answers below `/api`, which is always the current version.

* **Sign in** {sign_in}
* **Errors** are `application/problem+json` (RFC 9457) with a stable `code` and the `request_id` that finds the request
  in the log. Below `/api/{{user_id}}/tasks` they have the owner contract's shape, below `/api/users`, `/api/admins` and
  `/api/password` that of the accounts contract.
* **Retries** are safe with an `Idempotency-Key` on every POST that creates.
* **Lost updates** are prevented by `ETag` and `If-Match`; PUT and PATCH are merges.
"""

_MATCHED = {
    "replace_task", "update_task", "complete_task", "delete_task",
    "owner_update_task", "owner_complete_task", "owner_delete_task",
}  # fmt: skip
_HEADERS = {
    "Idempotency-Key": (
        "Makes a retry safe: the first answer is given again for 24 hours.",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
        {"create_task", "change_tasks", "owner_create_task", "create_attachment", "import_tasks"},
    ),
    "If-Match": (
        "The `ETag` that was read; 412 when the task has changed since.",
        {"type": "string", "pattern": r'^(\*|"[0-9]{1,9}")$', "examples": ['"3"']},
        _MATCHED,
    ),
    "If-None-Match": (
        "The `ETag` that is held already; 304 when it is current.",
        {"type": "string", "examples": ['"3"']},
        {"read_task", "owner_read_task", "download_attachment"},
    ),
    "Last-Event-ID": (
        "The id of the last event that came; what came after it follows.",
        {"type": "string", "maxLength": 2048},
        {"follow_changes"},
    ),
    "Range": (
        "One part of the file, in bytes; whatever else is asked for gets the whole.",
        {"type": "string", "examples": ["bytes=0-1023"]},
        {"download_attachment"},
    ),
}
_ETAGGED = {
    "create_task", "read_task", "replace_task", "update_task", "complete_task", "restore_task",
    "owner_create_task", "owner_read_task", "owner_update_task", "owner_complete_task",
}  # fmt: skip
_TOO_LITTLE = "The token was given less than this needs: see `scope` in `WWW-Authenticate`."
# Its 401 is about METRICS_TOKEN, where one is set, and not about anybody's session.
_OPERATORS = {"read_metrics"}
# Their 401 is about what is in the body.
_SIGNING_IN = {
    "login", "refresh", "accounts_login", "accounts_refresh", "accounts_login_admin", "accounts_refresh_admin",
}  # fmt: skip


def install(app: FastAPI, settings: Settings) -> None:
    """Make `app.openapi()` build the document once."""

    def build() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _build(app, settings)
        return app.openapi_schema

    app.openapi = build  # type: ignore[method-assign]


def _build(app: FastAPI, settings: Settings) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=_DESCRIPTION.format(sign_in=_SIGN_IN if settings.local_accounts else _SIGN_IN_ELSEWHERE),
        routes=app.routes,
        servers=[{"url": "/"}],
        license_info={"name": "MIT", "identifier": "MIT"},
        separate_input_output_schemas=False,
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas.update(_own_schemas(local_accounts=settings.local_accounts))
    document["components"]["securitySchemes"] = _security(local_accounts=settings.local_accounts)
    _say_least_password(schemas, settings.password_min_length)
    for schema in schemas.values():
        _put_nulls_back(schema.get("examples", []), {"items": schema}, schemas)
    for operation in _operations(document):
        _complete(operation, settings)
    return document


def _own_schemas(*, local_accounts: bool) -> dict[str, Any]:
    models: list[Any] = [Problem, ValidationProblem, OwnerError, OwnerValidationError]
    if local_accounts:
        models += [LoginRequest, LoginForm, AccountsError, AccountsValidationError]
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    found: dict[str, Any] = definitions["$defs"]
    return found


def _say_least_password(schemas: dict[str, Any], least: int) -> None:
    for schema in schemas.values():
        for field in schema.get("properties", {}).values():
            if field.get("format") == "password" and field["minLength"] == LEAST_NEW_PASSWORD:
                field["minLength"] = least


def _put_nulls_back(value: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> None:
    # FastAPI leaves out what is null, in examples too; a field that is always there has to be in them.
    for choice in (schema, *schema.get("anyOf", ())):
        found = schemas[choice["$ref"].rpartition("/")[2]] if "$ref" in choice else choice
        if isinstance(value, list):
            for item in value:
                _put_nulls_back(item, found.get("items", {}), schemas)
        elif isinstance(value, dict):
            for name, field in found.get("properties", {}).items():
                if name in value:
                    _put_nulls_back(value[name], field, schemas)
                elif name in found.get("required", ()):
                    value[name] = None


def _security(*, local_accounts: bool) -> dict[str, Any]:
    schemes: dict[str, Any] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "An access token of this server, or of an issuer that it trusts.",
        }
    }
    if local_accounts:
        flow = {"tokenUrl": "/api/v1/auth/login", "refreshUrl": "/api/v1/auth/refresh", "scopes": {}}
        schemes["password"] = {"type": "oauth2", "flows": {"password": flow}}
        schemes["registration"] = {
            "type": "apiKey",
            "in": "header",
            "name": REGISTRATION_HEADER,
            "description": "`ADMIN_REGISTRATION_TOKEN`, once, while there is no administrator.",
        }
    return schemes


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        for method, operation in path.items():
            if method in {"get", "post", "put", "patch", "delete"}:
                yield operation


def _complete(operation: dict[str, Any], settings: Settings) -> None:
    responses = operation["responses"]
    protected = "401" in responses and operation["operationId"] not in {*_SIGNING_IN, *_OPERATORS}
    operation["security"] = []
    if protected:
        operation["security"] = [{"bearer": []}] + ([{"password": []}] if settings.local_accounts else [])
        if _asks_for_scopes(settings):
            responses.setdefault("403", {**responses["401"], "description": _TOO_LITTLE})
    if operation["operationId"] == "accounts_register_admin":
        operation["security"].append({"registration": []})
    for name, (text, schema, operations) in _HEADERS.items():
        if operation["operationId"] in operations:
            operation.setdefault("parameters", []).append(
                {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
            )
    for parameter in operation.get("parameters", ()):
        _drop_null(parameter)
    for status, response in responses.items():
        headers = response.setdefault("headers", {})
        headers["X-Request-ID"] = _header("Finds this request in the log.")
        if status == "401" or (status == "403" and protected and _asks_for_scopes(settings)):
            headers["WWW-Authenticate"] = _header("RFC 6750 §3.")
        if status == "503":
            headers["Retry-After"] = _header("Seconds.", "integer")
        if status[0] == "2" and operation["operationId"] in _ETAGGED:
            headers["ETag"] = _header("The version, for If-Match and If-None-Match.")
        if status == "201" and operation["operationId"] in {"create_task", "owner_create_task", "create_attachment"}:
            headers["Location"] = _header("The address of what was created.")


def _asks_for_scopes(settings: Settings) -> bool:
    issuers = ({"read_scope": settings.better_auth_read_scope}, *settings.trusted_issuers)
    return any(issuer.get("read_scope") for issuer in issuers)


def _drop_null(parameter: dict[str, Any]) -> None:
    # A parameter that may be None is one that may be left out; no spelling of it means null.
    schema = parameter["schema"]
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        parameter["schema"] = {**{name: value for name, value in schema.items() if name != "anyOf"}, **choices[0]}


def _header(text: str, kind: str = "string") -> dict[str, Any]:
    return {"description": text, "schema": {"type": kind}}
