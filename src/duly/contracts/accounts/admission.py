"""Who may register an administrator, known before anything else of the request is looked at."""

import hmac
from typing import Annotated

from fastapi import Depends, Request
from starlette.responses import Response

from duly.errors import Unauthenticated
from duly.identity.principals import Principal
from duly.web.dependencies import get_admin, get_current_user
from duly.web.raw_headers import find_header
from duly.web.route import ContractRoute, Handler
from duly.web.services import Services

REGISTRATION_HEADER = "X-Admin-Registration-Token"
_HEADER = REGISTRATION_HEADER.lower().encode()


async def get_registrar(request: Request) -> Principal | None:
    """The administrator who registers another one, or None for whoever has shown the registration token.

    Whether that token is still good is for the verb to say. Raises `Unauthenticated`, `Forbidden`.
    """
    presented = find_header(request.scope, _HEADER)
    if presented is None:
        await get_admin(request)
        return await get_current_user(request)
    services: Services = request.app.state.services
    expected = services.settings.admin_registration_token
    if expected is None or not hmac.compare_digest(presented.encode("latin-1"), expected.get_secret_value().encode()):
        raise Unauthenticated("The registration token is not valid.", code="BAD_REGISTRATION_TOKEN", challenge=False)
    return None


Registrar = Annotated[Principal | None, Depends(get_registrar)]


class AdmissionRoute(ContractRoute):
    """A contract's route that knows `Registrar` as a caller: 401 and 403 come first, whatever the body."""

    def get_route_handler(self) -> Handler:
        """The handler behind the doorkeeper, where the endpoint asks for one."""
        handle = super().get_route_handler()
        if all(part.call is not get_registrar for part in self.dependant.dependencies):
            return handle

        async def admitted(request: Request) -> Response:
            await get_registrar(request)
            return await handle(request)

        return admitted
