"use strict";

// Starts Swagger UI. The addresses come from the page, so that this file is the same for every installation.
(() => {
  const page = document.getElementById("swagger-ui").dataset;
  window.ui = SwaggerUIBundle({
    dom_id: "#swagger-ui",
    url: page.openapiUrl,
    oauth2RedirectUrl: new URL(page.redirectUrl, window.location.href).href,
    presets: [SwaggerUIBundle.presets.apis],
    layout: "BaseLayout",
    deepLinking: true,
    displayRequestDuration: true,
    filter: true,
    persistAuthorization: false, // what was typed into Authorize, a password too, would lie in the browser's storage
    tryItOutEnabled: true,
    validatorUrl: null, // the badge would ask a server outside
  });
})();
