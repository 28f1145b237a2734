// The tab Tokens: any text as the model's tokenizer divides it, with ids and bytes.

import { aborted, LONGEST_TEXT } from "./api.js";
import { debounced, make } from "./dom.js";
import { decode, hex, spoken, visible } from "./token.js";

const WAIT_MS = 200; // after the last key
const MOST = 2000; // tokens that are shown
const TINTS = 4;
const SAMPLE = "Unbelievable! Naïve café-goers paid 12,345.67 €.\n\tfor (i = 0; i < 10; i++)\n東京タワー 🙂";

export function mount(root, app) {
  const area = make("textarea", {
    id: "tokens-text",
    rows: 4,
    maxlength: LONGEST_TEXT,
    spellcheck: "false",
    dir: "auto",
    placeholder: "Type any text.",
  });
  const wrong = make("p", { class: "wrong", role: "alert" });
  const counts = make("dl", { class: "counts" });
  const chips = make("div", { dir: "auto", "aria-hidden": "true" });
  const note = make("p", { class: "hint" });
  const rows = make("tbody");
  const table = make(
    "table",
    { class: "figures" },
    make("caption", { class: "unseen" }, "The tokens of the text"),
    make("thead", {}, make("tr", {}, ...["Token", "Text", "Id", "Bytes"].map(heading))),
    rows,
  );
  const scroll = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of tokens" }, table);
  const result = make("div", {}, counts, chips, note, scroll);
  root.append(
    make(
      "div",
      { class: "title" },
      make("label", { for: area.id }, "Any text"),
      make(
        "div",
        { class: "row" },
        make("button", { type: "button", class: "quiet small", onclick: takeText }, "Take the text"),
        make("button", { type: "button", class: "quiet small", onclick: () => put(SAMPLE) }, "Try a sample"),
      ),
    ),
    area,
    wrong,
    result,
    make(
      "p",
      { class: "hint help" },
      "A model reads and writes numbers, one for each token of its vocabulary. Frequent words are one token; rare " +
        "ones are divided, where need be into the bytes of a character (in UTF-8, shown in hexadecimal).",
    ),
  );
  let touched = false; // whether the text is the reader's own; until then it is the prompt
  let request = null; // the AbortController of the question under way
  let stale = true; // whether the text has changed since it was divided

  function put(text) {
    touched = true;
    area.value = text;
    change();
    area.focus();
  }

  function takeText() {
    put(app.tokens.length > 0 ? decode(app.tokens) : app.prompt());
  }

  async function divide() {
    if (app.tab !== "tokens" || !stale || app.model === null) return;
    request?.abort();
    request = new AbortController();
    stale = false; // before the answer: what is typed until it comes makes it stale again
    try {
      const body = { model: app.model.name, text: area.value };
      const { tokens } = area.value === "" ? { tokens: [] } : await app.api.post("/play/tokens", body, request);
      wrong.textContent = "";
      show(tokens);
    } catch (error) {
      if (aborted(error)) return;
      stale = true;
      wrong.textContent = error.message;
      result.hidden = true;
    }
  }

  function show(tokens) {
    const shown = tokens.slice(0, MOST);
    const bytes = tokens.reduce((sum, token) => sum + token.bytes.length, 0);
    const characters = [...area.value].length;
    result.hidden = tokens.length === 0;
    counts.replaceChildren(
      count("Tokens", tokens.length.toLocaleString("en")),
      count("Bytes", bytes.toLocaleString("en")),
      count("Characters", characters.toLocaleString("en")),
      count("Bytes a token", (bytes / tokens.length).toFixed(2)),
    );
    chips.replaceChildren(...shown.flatMap(chip));
    note.textContent = tokens.length > MOST ? `The first ${MOST.toLocaleString("en")} are shown.` : "";
    rows.replaceChildren(...shown.map(line));
  }

  const soon = debounced(divide, WAIT_MS);
  function change() {
    stale = true;
    soon();
    app.emit("link");
  }
  area.addEventListener("input", () => {
    touched = true;
    change();
  });
  app.on("model", () => {
    stale = true;
    soon();
  });
  app.on("prompt", () => {
    if (touched || area.value === app.prompt()) return;
    area.value = app.prompt();
    stale = true;
    soon();
  });
  app.on("tab", divide);
  app.remember("tokens", {
    save: () => (touched ? area.value : ""),
    load: (text) => {
      touched = true;
      area.value = text;
      change();
    },
  });
}

const NUMBERS = ["Token", "Id"];
const heading = (name) => make("th", { scope: "col", class: NUMBERS.includes(name) ? "number" : null }, name);
const count = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));

// A token as it stands in the text, with its id under it; a new line also ends the line here.
function chip(token, index) {
  const text = make("span", { class: "glyphs" }, ...signs(token));
  const element = make("span", { class: `chip tint-${index % TINTS}` }, text, make("small", {}, String(token.id)));
  element.title = `token ${index + 1}, id ${token.id}, bytes ${hex(token)}`;
  return token.text.includes("\n") ? [element, make("br")] : [element];
}

// The token's text; signs of what would not be seen, and bytes of a part of a character, are dim.
function signs(token) {
  if (token.text.includes("\ufffd")) return [make("span", { class: "sign" }, visible(token))];
  const parts = visible(token).split(/([␣↵⇥␍])/u);
  return parts.map((part, index) => (index % 2 === 1 ? make("span", { class: "sign" }, part) : part));
}

function line(token, index) {
  const name = make("th", { scope: "row", class: "glyphs" }, visible(token));
  name.setAttribute("aria-label", spoken(token));
  return make(
    "tr",
    {},
    make("td", { class: "number" }, String(index + 1)),
    name,
    make("td", { class: "number" }, String(token.id)),
    make("td", { class: "bytes" }, hex(token)),
  );
}
