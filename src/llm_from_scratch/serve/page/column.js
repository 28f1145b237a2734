// One of the two texts of the tab Compare: a model and settings of its own, and what they write.

import { aborted } from "./api.js";
import { framed, make } from "./dom.js";
import { settingField } from "./field.js";
import { DEFAULTS, LABELS } from "./settings.js";
import { bits } from "./token.js";
import { tokenView } from "./view.js";

export const OWN = ["temperature", "top_k", "top_p", "min_p", "repetition_penalty"];
const TOP = 10; // alternatives beside each token

// name: "A" or "B". shared() -> {prompt, seed, max_tokens} of both columns. changed(): the text, or
// whether it is being written, is another; chosen(): the reader chose a model or a setting.
export function createColumn(app, name, { shared, changed, chosen }) {
  const id = (part) => `compare-${name.toLowerCase()}-${part}`;
  let settings = pick(DEFAULTS);
  let tokens = [];
  let start = null; // {model, ids}: the prompt that `tokens` go on from
  let writes = null; // the AbortController of what is written at this moment
  let ended = false; // whether the model ended the text by itself

  const model = make("select", { id: id("model"), "aria-label": `Model of ${name}`, onchange: chosen });
  const summary = make("summary");
  const fields = OWN.map((key) =>
    settingField(id(key), key, () => settings[key], (value) => {
      settings = { ...settings, [key]: value };
      summary.textContent = described(settings);
      chosen();
    }),
  );
  const wrong = make("p", { class: "wrong", role: "alert" });
  const figures = make("p", { class: "hint" });
  const view = tokenView(app, {
    label: `Text ${name}, token by token`,
    choose: (index, alternative) => goOn(index, { ...alternative, top: tokens[index].top }),
    first: () => null,
  });
  const element = make(
    "section",
    { class: "column", "aria-labelledby": id("title") },
    make("div", { class: "field" }, make("h2", { id: id("title") }, name), model),
    make("details", {}, summary, ...fields.map((one) => one.element)),
    wrong,
    view.element,
    figures,
  );
  app.on("models", offer);
  offer();
  show();

  function offer() {
    const before = model.value;
    model.replaceChildren(...app.models.map((one) => new Option(one.name, one.name)));
    if (app.models.some((one) => one.name === before)) model.value = before;
  }

  function show() {
    fields.forEach((one) => one.show());
    summary.textContent = described(settings);
  }

  function write() {
    tokens = [];
    return follow(async (signal) => {
      const body = { model: model.value, text: shared().prompt };
      const found = await app.api.post("/play/tokens", body, { signal });
      start = { model: body.model, ids: found.tokens.map((token) => token.id) };
      await stream(signal);
    });
  }

  // Writes again from the token `index` on, with another one there.
  function goOn(index, token) {
    tokens = [...tokens.slice(0, index), token];
    return follow(stream);
  }

  // Runs what writes; its error stands in this column.
  async function follow(work) {
    stop();
    const control = new AbortController();
    writes = control;
    ended = false;
    wrong.textContent = "";
    paint();
    try {
      await work(control.signal);
    } catch (error) {
      if (!aborted(error)) wrong.textContent = error.message;
    } finally {
      if (writes === control) writes = null;
      paint();
    }
  }

  async function stream(signal) {
    const { seed, max_tokens } = shared();
    const ids = [...start.ids, ...tokens.map((token) => token.id)];
    const body = { model: start.model, ids, settings: { ...settings, seed, max_tokens }, top: TOP };
    const take = ({ token, finish }) => {
      if (signal.aborted) return;
      if (token) tokens = [...tokens, token];
      ended ||= finish === "stop";
      paintSoon();
    };
    await app.api.stream("/play/write", body, take, { signal });
  }

  function paint() {
    view.update(tokens);
    figures.replaceChildren(...(tokens.length > 0 ? surprise(tokens, ended) : []));
    changed();
  }
  const paintSoon = framed(paint);

  function stop() {
    writes?.abort();
  }

  // Marks the token where the two texts part; null: none.
  function mark(index) {
    view.element.querySelectorAll(".token").forEach((button, place) => {
      button.classList.toggle("parts", place === index);
      if (place === index) button.setAttribute("aria-description", "Here the two texts part.");
      else button.removeAttribute("aria-description");
    });
  }

  return {
    element,
    write,
    stop,
    mark,
    tokens: () => tokens,
    busy: () => writes !== null,
    choice: () => ({ model: model.value, settings }),
    choose(next) {
      model.value = next.model;
      settings = pick(next.settings);
      show();
    },
  };
}

const pick = (settings) => Object.fromEntries(OWN.map((key) => [key, settings[key]]));

// One line about settings: those that are not as they were at first.
function described(settings) {
  const others = OWN.filter((key) => settings[key] !== DEFAULTS[key]);
  if (others.length === 0) return "Settings: none changed";
  return others.map((key) => `${LABELS[key]} ${settings[key]}`).join(", ");
}

// The mean surprise: in bits a token, and in bits a byte, which compares different vocabularies.
function surprise(tokens, ended) {
  const sum = tokens.reduce((total, token) => total + bits(token.logprob), 0);
  const bytes = tokens.reduce((total, token) => total + token.bytes.length, 0);
  const mean = make("strong", {}, `${(sum / tokens.length).toFixed(2)} bits`);
  const perByte = bytes > 0 ? `${(sum / bytes).toFixed(2)} bits a byte · ` : "";
  const count = `${tokens.length} ${tokens.length === 1 ? "token" : "tokens"}${ended ? ", then the end" : ""}`;
  return ["Mean surprise ", mean, " a token", make("br"), `${perByte}${count}`];
}
