// The tab Attention: what each token of the text shown attends to, in any layer and head.

import { debounced, make } from "./dom.js";
import { insideView } from "./inside.js";
import { Pattern, strength } from "./pattern.js";
import { named, readingView } from "./reading.js";
import { visible } from "./token.js";

const LONGEST = 512; // tokens of one pattern: the server's limit
const KEPT = 16; // patterns in memory, so that going back to a head asks for nothing
const MEAN = "mean"; // the choice of the mean of all heads

export function mount(root, app) {
  const layer = make("select", { id: "attention-layer" });
  const head = make("select", { id: "attention-head" });
  const layers = make("span", { class: "dim" });
  const choices = make(
    "div",
    { class: "row", role: "group", "aria-label": "Where to look" },
    make("span", { class: "field" }, make("label", { for: layer.id }, "Layer"), layer, layers),
    make("span", { class: "field" }, make("label", { for: head.id }, "Head"), head),
  );
  const note = make("p", { class: "hint", role: "status" });
  const canvas = make("canvas", {
    tabindex: 0,
    role: "application",
    "aria-label": "Pattern of the text. Arrow keys walk over pairs of tokens, Enter selects the token of the row.",
  });
  const pair = make("p", { class: "pair", "aria-live": "polite" });
  const reading = readingView((index) => app.set("selected", shown.start + index));
  const figure = make("div", { class: "pattern" }, canvas, pair, scale());
  const body = make("div", { class: "attention-body" }, figure, reading.element);
  const inside = insideView(app, (newLayer, newHead) => {
    layer.value = String(newLayer);
    head.value = String(newHead);
    refresh();
    app.emit("link");
  });
  root.append(choices, note, body, inside.element, help());

  const pattern = new Pattern(canvas, tell, (row) => app.set("selected", shown.start + row));
  const answers = new Map(); // weights by question, the newest last
  let shown = null; // {tokens, start, weights}: of app.tokens from `start` on
  let request = null; // the AbortController of the question under way

  function offer() {
    const before = [layer.value, head.value];
    const numbers = (count) => Array.from({ length: count }, (_, index) => new Option(index + 1, index));
    layer.replaceChildren(...numbers(app.model?.layers ?? 0));
    layers.textContent = `of ${app.model?.layers ?? 0}`;
    head.replaceChildren(new Option("mean of all", MEAN), ...numbers(app.model?.heads ?? 0));
    [layer, head].forEach((select, index) => {
      if (offers(select, before[index])) select.value = before[index];
    });
    refresh();
  }

  // Shows the pattern of the present text, layer and head.
  async function ask() {
    request?.abort();
    if (app.tab !== "attention" || app.busy) return;
    const control = new AbortController();
    request = control;
    const whole = await text();
    if (request !== control) return;
    const start = Math.max(0, whole.length - Math.min(LONGEST, app.model?.context ?? 0));
    const tokens = whole.slice(start);
    const empty = tokens.length === 0;
    if (empty) shown = null;
    choices.hidden = empty;
    body.hidden = shown === null;
    inside.element.hidden = empty;
    if (empty) note.textContent = "Write a text first: here is shown what each of its tokens attends to.";
    if (empty) return;
    if (shown === null) note.textContent = "The model reads the text …";
    body.setAttribute("aria-busy", "true");
    const question = {
      model: app.model.name,
      ids: tokens.map((token) => token.id),
      layer: Number(layer.value),
      head: head.value === MEAN ? null : Number(head.value),
    };
    try {
      const weights = await answer(question, control.signal);
      if (request === control) show(tokens, start, weights);
    } finally {
      if (request === control) body.setAttribute("aria-busy", "false");
    }
  }

  const refresh = () => app.follow(ask);

  // The tokens of the text shown; of the prompt, before anything is written.
  async function text() {
    if (app.model === null || app.mode === "chat" || app.tokens.length > 0) return app.tokens;
    return app.prompt() === "" ? [] : app.promptTokens();
  }

  async function answer(question, signal) {
    const key = JSON.stringify(question);
    if (!answers.has(key)) {
      const { weights } = await app.api.post("/play/attention", question, { signal });
      answers.set(key, weights);
      if (answers.size > KEPT) answers.delete(answers.keys().next().value);
    }
    return answers.get(key);
  }

  function show(tokens, start, weights) {
    const known = shown?.weights === weights; // the same question: the reader's place in the pattern stays
    shown = { tokens, start, weights };
    if (known) return mark();
    body.hidden = false;
    const count = `The last ${tokens.length} of ${start + tokens.length} tokens`;
    note.textContent = start > 0 ? `${count}, read as a text of their own.` : "";
    reading.write(tokens, start + 1);
    pattern.show(weights, tokens.map(visible), row(), body.clientWidth);
    mark();
    tell(null);
  }

  // The row of the selected token, or the last one.
  function row() {
    const selected = (app.selected ?? -1) - shown.start;
    return selected in shown.tokens ? selected : shown.tokens.length - 1;
  }

  function mark() {
    if (app.tab !== "attention" || shown === null) return;
    pattern.mark(row());
    reading.update(row(), shown.weights[row()]);
    inside.show(shown.tokens, row(), shown.start + 1);
  }

  function tell(cell) {
    pair.classList.toggle("dim", cell === null);
    if (cell === null) {
      pair.textContent = "Point at the pattern, or walk over it with the arrow keys, to read a weight.";
      return;
    }
    const [from, to] = cell;
    const name = (index) => named(shown.tokens, index, shown.start + 1);
    pair.textContent = `${name(from)} → ${name(to)}: ${shown.weights[from][to].toFixed(4)}`;
  }

  for (const select of [layer, head]) {
    select.addEventListener("change", () => {
      refresh();
      app.emit("link");
    });
  }
  app.remember("attention", {
    save: () => (layer.selectedIndex + head.selectedIndex > 0 ? `${layer.value}.${head.value}` : ""),
    load: (text) => {
      const values = text.split(".");
      const choices = [layer, head];
      if (values.length !== 2 || !choices.every((select, index) => offers(select, values[index]))) {
        throw new Error("The link names a layer or a head that its model has not.");
      }
      choices.forEach((select, index) => (select.value = values[index]));
      refresh();
    },
  });
  app.on("model", offer);
  app.on("tab", refresh);
  app.on("busy", refresh);
  app.on("tokens", debounced(refresh, 150));
  app.on("prompt", debounced(refresh, 300));
  app.on("selected", mark);
  new ResizeObserver(() => shown && pattern.resize(body.clientWidth)).observe(body);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => pattern.resize(body.clientWidth));
  offer();
}

const offers = (select, value) => [...select.options].some((option) => option.value === value);

// What the strength of the colour means.
function scale() {
  const steps = [0, 0.01, 0.1, 0.5, 1].map((weight) => {
    const step = make("span", {}, String(weight));
    step.style.setProperty("--heat", `${100 * strength(weight)}%`);
    return step;
  });
  return make("p", { class: "scale" }, "Weight", ...steps);
}

function help() {
  return make(
    "div",
    { class: "hint help" },
    make(
      "p",
      {},
      "A row is a token that reads, a column a token that it attends to: itself or one before it. The weights of a " +
        "row add up to 1; what the row gathers serves to predict the token after it.",
    ),
    make(
      "p",
      {},
      "Many heads put most of their weight on the first token, whatever it is. Such an attention sink is where a " +
        "head looks when it finds nothing to fetch: it does not mean that the first word matters.",
    ),
  );
}
