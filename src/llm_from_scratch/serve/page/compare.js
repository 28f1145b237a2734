// The tab Compare: two models, or two settings of one, write after the same prompt from the same
// seed, at the same time.

import { LONGEST_TEXT } from "./api.js";
import { OWN, createColumn } from "./column.js";
import { make } from "./dom.js";
import { settingField } from "./field.js";
import { DEFAULTS, parse } from "./settings.js";
import { visible } from "./token.js";

const LOWER = 0.5; // the temperature of B at first, where there is one model

export function mount(root, app) {
  let own = false; // whether the reader has chosen here; until then A is what the page has
  let typed = false; // whether the prompt is the reader's; until then it is that of the text
  let shared = { seed: DEFAULTS.seed, max_tokens: DEFAULTS.max_tokens };
  const chosen = () => {
    own = true;
    app.emit("link");
  };

  const area = make("textarea", {
    id: "compare-prompt",
    rows: 3,
    maxlength: LONGEST_TEXT,
    spellcheck: "false",
    dir: "auto",
    oninput: () => {
      typed = true;
      chosen();
      paint();
    },
  });
  const button = make("button", { type: "button", class: "primary main", onclick: () => (busy() ? stop() : write()) });
  const fields = Object.keys(shared).map((key) =>
    settingField(`compare-${key}`, key, () => shared[key], (value) => {
      shared = { ...shared, [key]: value };
      chosen();
    }),
  );
  const verdict = make("p", { class: "verdict", role: "status" });
  const columns = ["A", "B"].map((name) =>
    createColumn(app, name, { shared: () => ({ ...shared, prompt: area.value }), changed: paint, chosen }),
  );
  root.append(
    make("div", { class: "title" }, make("label", { for: area.id }, "The prompt of both")),
    area,
    make("div", { class: "row" }, button, ...fields.map((field) => field.element)),
    verdict,
    make("div", { class: "columns" }, ...columns.map((column) => column.element)),
    make(
      "p",
      { class: "hint help" },
      "Both draw from the same seed: as long as their distributions are alike, so are their texts. The surprise of a " +
        "token is −log₂ of the probability that its model gave it.",
    ),
  );

  const busy = () => columns.some((column) => column.busy());
  const stop = () => columns.forEach((column) => column.stop());

  async function write() {
    own = true;
    app.say("Both are writing.");
    await Promise.all(columns.map((column) => column.write()));
    if (!busy()) app.say("Both texts have ended.");
  }

  function paint() {
    const place = parting(...columns.map((column) => column.tokens()));
    columns.forEach((column, index) => column.mark(place?.[index] ?? null));
    const line = told(place, columns.map((column) => column.tokens()), busy());
    if (verdict.textContent !== line) verdict.textContent = line;
    button.textContent = busy() ? "Stop" : "Write both";
    button.disabled = !busy() && (app.model === null || area.value === "");
  }

  // What the page has, as long as nothing else was chosen here.
  function follow() {
    if (!typed) area.value = app.prompt();
    if (!own && app.model !== null) {
      const { settings, model, models } = app;
      const other = models.find((one) => one !== model);
      columns[0].choose({ model: model.name, settings });
      columns[1].choose({
        model: (other ?? model).name,
        settings: other ? settings : { ...settings, temperature: LOWER },
      });
      shared = { seed: settings.seed, max_tokens: settings.max_tokens };
      fields.forEach((field) => field.show());
    }
    paint();
  }

  for (const name of ["model", "models", "settings", "prompt"]) app.on(name, follow);
  app.remember("compare", {
    save: () => {
      if (!own) return "";
      return JSON.stringify([typed ? area.value : null, shared, ...columns.map((column) => column.choice())]);
    },
    load: (text) => {
      const [prompt, both, ...choices] = checked(text, app.models);
      if (prompt !== null) area.value = prompt;
      [own, typed, shared] = [true, prompt !== null, both];
      columns.forEach((column, index) => column.choose(choices[index]));
      fields.forEach((field) => field.show());
      paint();
    },
  });
}

// Where two texts part: for each the index of the token with the first byte that differs, or null
// as long as one begins like the other.
export function parting(...texts) {
  const [a, b] = texts.map((tokens) => tokens.flatMap((token, index) => token.bytes.map((byte) => ({ byte, index }))));
  const place = a.findIndex(({ byte }, index) => index < b.length && byte !== b[index].byte);
  return place < 0 ? null : [a[place].index, b[place].index];
}

function told(place, [a, b], busy) {
  if (place !== null) {
    const [at, other] = place;
    const after = at === 0 ? "at once" : `after ${at} ${at === 1 ? "token" : "tokens"}${at === other ? "" : " of A"}`;
    return `They part ${after}: A goes on with “${visible(a[at])}”, B with “${visible(b[other])}”.`;
  }
  if (busy || a.length + b.length === 0) return "";
  return a.length === b.length ? "Both wrote the same." : "As far as both go, they wrote the same.";
}

// What a link says of this tab, or an Error of one line.
function checked(text, models) {
  const wrong = new Error("What the link says of Compare cannot be read.");
  let parts;
  try {
    parts = JSON.parse(text);
  } catch {
    throw wrong;
  }
  if (!Array.isArray(parts) || parts.length !== 4) throw wrong;
  const [prompt, shared, ...choices] = parts;
  if (prompt !== null && typeof prompt !== "string") throw wrong;
  const settings = (found, names) => {
    if (typeof found !== "object" || found === null) throw wrong;
    return Object.fromEntries(names.map((name) => [name, parse(name, String(found[name] ?? ""))]));
  };
  return [
    prompt,
    settings(shared, ["seed", "max_tokens"]),
    ...choices.map((choice) => {
      if (!models.some((model) => model.name === choice?.model)) throw wrong;
      return { model: choice.model, settings: settings(choice.settings, OWN) };
    }),
  ];
}
