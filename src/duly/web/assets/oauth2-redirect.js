"use strict";

// The end of an OAuth 2.0 login in Swagger UI: hands the answer to the window that opened this one, and closes.
(() => {
  const oauth2 = window.opener && window.opener.swaggerUIRedirectOauth2;
  if (!oauth2) {
    document.body.textContent = "This page ends a login that was begun on the documentation page.";
    return;
  }

  const text = window.location.hash.length > 1 ? window.location.hash : window.location.search;
  const answer = Object.fromEntries(new URLSearchParams(text.slice(1)));
  const isValid = answer.state === oauth2.state; // RFC 6749 §10.12
  const flow = oauth2.auth.schema.get("flow");
  const wantsCode = ["accessCode", "authorizationCode", "authorization_code"].includes(flow);

  const fail = (level, message) =>
    oauth2.errCb({ authId: oauth2.auth.name, source: "auth", level, message });

  if (!isValid) {
    fail("error", "The answer does not belong to this login: its state differs.");
  } else if (answer.error) {
    fail("error", [answer.error, answer.error_description, answer.error_uri].filter(Boolean).join(". "));
  } else if (wantsCode && !oauth2.auth.code && !answer.code) {
    fail("error", "The server sent no authorization code.");
  } else if (wantsCode) {
    delete oauth2.state;
    oauth2.auth.code = answer.code;
    oauth2.callback({ auth: oauth2.auth, redirectUrl: oauth2.redirectUrl });
  } else {
    oauth2.callback({ auth: oauth2.auth, token: answer, isValid, redirectUrl: oauth2.redirectUrl });
  }
  window.close();
})();
