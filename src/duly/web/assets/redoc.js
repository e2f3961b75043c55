"use strict";

// Starts ReDoc with fonts that every system has, so that nothing is fetched from outside.
(() => {
  const page = document.getElementById("redoc");
  Redoc.init(
    page.dataset.openapiUrl,
    {
      hideDownloadButton: false,
      theme: {
        typography: {
          fontFamily: "system-ui, sans-serif",
          headings: { fontFamily: "system-ui, sans-serif" },
          code: { fontFamily: "ui-monospace, monospace" },
        },
      },
    },
    page,
  );
})();
