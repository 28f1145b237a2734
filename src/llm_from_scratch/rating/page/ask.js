// Requests to this server, and the form that asks for a code.
//
//   createApi(secret) -> {get(path), post(path, body)}: promises of the JSON of the answer
//   secretOfAddress() -> the code or token of this page's address; "" for none
//   showForm(root, {title, hint, label, wrong})   asks for one; the address then has it
//
// The secret stands in the fragment of the address, which no browser sends to a server; it goes into
// a header. A failure is an Error with `again`: whether the same request may succeed later.

import { make } from "./dom.js";

const SECONDS = 15; // for which an answer is waited for

export function secretOfAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return location.hash.slice(1); // a link that was mistyped
  }
}

export function createApi(secret) {
  async function request(path, body) {
    let response;
    try {
      response = await fetch(path, {
        method: body === undefined ? "GET" : "POST",
        headers: {
          // A header holds no character beyond ASCII, and no code has one.
          Authorization: `Bearer ${secret.replace(/[^\x21-\x7e]/g, "?")}`,
          ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        },
        body: body === undefined ? undefined : JSON.stringify(body),
        cache: "no-store",
        credentials: "omit",
        keepalive: body !== undefined, // it goes on where the page is closed
        signal: AbortSignal.timeout(1000 * SECONDS),
      });
      if (response.ok) return await response.json();
    } catch {
      throw failure("The server does not answer.", true, 0);
    }
    const error = await response.json().then((answer) => answer.error, () => null);
    const again = response.status >= 500 || response.status === 429 || response.status === 408;
    throw failure(error?.message ?? `The server answered ${response.status}.`, again, response.status);
  }
  return { get: (path) => request(path), post: (path, body) => request(path, body) };
}

function failure(message, again, status) {
  return Object.assign(new Error(message), { again, status });
}

export function showForm(root, { title, hint, label, wrong }) {
  const field = make("input", { id: "code", autocomplete: "off", spellcheck: "false", autocapitalize: "none", required: true });
  const form = make(
    "form",
    { class: "plain sheet" },
    make("h2", {}, title),
    make("p", { class: "hint" }, hint),
    wrong ? make("p", { class: "wrong", role: "alert" }, wrong) : null,
    make("label", { for: "code" }, label),
    make("div", { class: "row" }, field, make("button", { class: "primary" }, "Go on")),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    // A whole link may be pasted, too.
    const hash = `#${encodeURIComponent(field.value.trim().split("#").at(-1))}`;
    if (hash === location.hash) location.reload();
    else location.hash = hash;
  });
  root.replaceChildren(form);
  field.focus();
}
