"use strict";

// Takes the token out of the address bar, and sends it when the button is pressed, never before.
(() => {
  const form = document.getElementById("form");
  const result = document.getElementById("result");
  const button = form.querySelector("button");
  const password = document.getElementById("password"); // null on the pages that only confirm
  const again = document.getElementById("again");
  const show = document.getElementById("show");
  const PATIENCE = 40000; // ms, longer than the server gives a request

  const token = new URLSearchParams(window.location.search).get("token");
  window.history.replaceState(null, "", window.location.pathname);
  let isSending = false;

  const say = (kind, lines) => {
    result.className = kind;
    result.replaceChildren(
      ...lines.map((line) => {
        const paragraph = document.createElement("p");
        paragraph.textContent = line;
        return paragraph;
      }),
    );
    result.scrollIntoView({ block: "nearest" });
  };

  const end = (kind, lines) => {
    form.reset();
    form.hidden = true;
    say(kind, lines);
    result.focus(); // the button that had it is gone
  };

  const mark = (input, message) => {
    document.getElementById(`${input.id}-fault`).textContent = message;
    if (message) {
      input.setAttribute("aria-invalid", "true");
    } else {
      input.removeAttribute("aria-invalid");
    }
  };

  // Counted as the server counts: code points after NFC.
  const length = (text) => [...text.normalize("NFC")].length;

  const isReady = () => {
    if (!password) return true;
    const least = Number(password.dataset.least);
    mark(password, length(password.value) < least ? `Use at least ${least} characters.` : "");
    mark(again, again.value === password.value ? "" : "Type the same password once more.");
    const wrong = form.querySelector("[aria-invalid]");
    if (wrong) wrong.focus();
    return !wrong;
  };

  const post = async (content) => {
    try {
      const response = await fetch(form.dataset.endpoint, {
        method: "POST",
        headers: { "Content-Type": "application/json", Accept: "application/json" },
        body: JSON.stringify(content),
        credentials: "omit",
        redirect: "error",
        signal: AbortSignal.timeout(PATIENCE),
      });
      // What stands between may answer with a page of its own, which is no JSON, or with JSON that is no object.
      return response.ok ? null : { ...(await response.json()) };
    } catch {
      return { detail: "The server did not answer as it should. Try again in a moment." };
    }
  };

  const refuse = (problem) => {
    const faults = Array.isArray(problem.errors) ? problem.errors : [];
    const own = password ? faults.filter((fault) => fault.field === password.name) : [];
    const others = faults.filter((fault) => !own.includes(fault)).map((fault) => String(fault.message));
    const lines = [String(problem.detail || problem.title || "That did not work. Try again in a moment."), ...others];
    if (problem.code === "BAD_TOKEN") {
      end("bad", lines);
      return;
    }
    say("bad", lines);
    if (own.length) {
      mark(password, own.map((fault) => fault.message).join(" "));
      password.focus();
    }
  };

  const send = async () => {
    isSending = true;
    button.setAttribute("aria-disabled", "true"); // `disabled` would take the focus away
    say("", ["One moment …"]);
    const problem = await post(password ? { token, new_password: password.value } : { token });
    isSending = false;
    button.removeAttribute("aria-disabled");
    if (problem) {
      refuse(problem);
    } else {
      end("good", [form.dataset.done]);
    }
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (isSending) return;
    result.replaceChildren();
    if (isReady()) send();
  });

  if (show) {
    show.addEventListener("change", () => {
      password.type = again.type = show.checked ? "text" : "password";
    });
  }

  if (token) {
    form.hidden = false;
  } else {
    say("bad", ["This link is not complete, or the page was loaded again. Open the whole link in the mail once more."]);
  }
})();
