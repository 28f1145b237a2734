// The distribution of the next token: what the model says (p, an outline), and what the settings
// make of it (q, a filled bar). It follows the end of the text, and every move of a setting. A row
// is a button: it puts its token at the end of the text.

import { aborted } from "./api.js";
import { debounced, make, seenAs } from "./dom.js";
import { percent, spoken, visible } from "./token.js";

const ROWS = 10;
const NARROW_ROWS = 7; // on a phone, where they stay in sight above the settings
const WAIT_MS = 60; // for a slider that is moved on

export function mount(root, app) {
  const facts = make("dl", { class: "facts" });
  const list = make("ol", { class: "distribution" });
  const rest = make("p", { class: "rest" });
  const rows = Array.from({ length: ROWS }, () => row(app));
  list.append(...rows.map((one) => one.element));
  root.append(
    make("div", { class: "title" }, make("h2", {}, "What may come next")),
    make("div", { class: "headings" }, facts, make("span", { class: "p" }, "model"), make("span", { class: "q" }, "settings")),
    list,
    rest,
  );
  const narrow = matchMedia("(max-width: 780px)");
  let asks = null; // the AbortController of the latest request
  let stale = true;

  async function ask() {
    if (app.tab !== "next" || app.busy || app.model === null) return;
    asks?.abort();
    const control = (asks = new AbortController());
    const { signal } = control;
    stale = false;
    try {
      const tokens = app.tokens.length > 0 ? app.tokens : app.mode === "text" ? await app.promptTokens() : [];
      if (signal.aborted) return;
      if (tokens.length === 0) return clear();
      const body = { model: app.model.name, ids: tokens.map((token) => token.id), settings: app.settings, top: 20 };
      show(await app.api.post("/play/next", body, { signal }));
    } catch (error) {
      if (!aborted(error) && asks === control) {
        clear();
        throw error;
      }
    } finally {
      if (asks === control) asks = null;
    }
  }

  function show({ tokens, rest: { p, q }, kept, entropy }) {
    const shown = tokens.slice(0, narrow.matches ? NARROW_ROWS : ROWS);
    const most = Math.max(...shown.map((token) => Math.max(token.p, token.q)), 1e-9);
    const top = tokens.slice(0, 10).map((token) => ({ ...token, logprob: Math.log(token.p) }));
    rows.forEach((one, index) => one.show(shown[index] ?? null, false, most, top));
    const beyond = tokens.slice(shown.length);
    const sum = (key, start) => beyond.reduce((total, token) => total + token[key], start);
    const others = app.model.vocabulary - shown.length;
    rest.replaceChildren(
      make("span", {}, `${others.toLocaleString("en")} other tokens`),
      make("span", { class: "number p" }, percent(sum("p", p))),
      make("span", { class: "number q" }, percent(sum("q", q))),
    );
    facts.replaceChildren(
      fact("Still possible", `${kept.toLocaleString("en")} of ${app.model.vocabulary.toLocaleString("en")}`),
      fact("Entropy", `${entropy.toFixed(2)} bits`),
    );
    root.dataset.kept = kept;
    root.dataset.entropy = entropy;
    root.classList.remove("empty");
  }

  function clear() {
    root.classList.add("empty");
    rows.forEach((one, index) => one.show(null, index < (narrow.matches ? NARROW_ROWS : ROWS)));
    facts.replaceChildren(fact("Still possible", "–"), fact("Entropy", "–"));
    rest.replaceChildren();
  }

  const soon = debounced(() => stale && app.follow(ask), WAIT_MS);
  const afterTyping = debounced(() => stale && app.follow(ask), 300);
  const changed = () => {
    stale = true;
    asks?.abort();
    soon();
  };
  narrow.addEventListener("change", changed);
  app.on("settings", changed);
  app.on("tokens", changed);
  app.on("model", changed);
  app.on("busy", () => {
    root.classList.toggle("waits", app.busy); // the bars are those of the text before
    changed();
  });
  app.on("prompt", () => {
    if (app.tokens.length > 0) return;
    stale = true;
    asks?.abort();
    afterTyping();
  });
  app.on("tab", () => stale && soon());
  clear();
}

function row(app) {
  const [glyphs, said] = seenAs("", "", "glyphs");
  const bar = make("span", { class: "double", "aria-hidden": "true" }, make("i"), make("b"));
  const p = make("span", { class: "number p" });
  const between = make("span", { class: "unseen" }, ", with the settings ");
  const q = make("span", { class: "number q" });
  const button = make("button", { type: "button", onclick: () => taken && app.take(taken) }, glyphs, said, bar, p, between, q);
  const element = make("li", {}, button);
  let taken = null;

  // token null: an empty row where it keeps the place of one, else none.
  function show(token, keeps, most = 1, top = null) {
    element.hidden = token === null && !keeps;
    button.disabled = token === null || app.mode !== "text";
    taken = token && { id: token.id, text: token.text, bytes: token.bytes, logprob: Math.log(token.p), top };
    glyphs.textContent = token ? visible(token) : "";
    said.textContent = token ? `Add ${spoken(token)}, ` : "";
    p.textContent = token ? percent(token.p) : "";
    q.textContent = token ? percent(token.q) : "";
    button.classList.toggle("out", token !== null && token.q === 0);
    bar.style.setProperty("--p", `${(100 * (token?.p ?? 0)) / most}%`);
    bar.style.setProperty("--q", `${(100 * (token?.q ?? 0)) / most}%`);
    if (token === null) return;
    button.dataset.id = token.id;
    button.dataset.p = token.p;
    button.dataset.q = token.q;
    button.title = "Add this token to the text";
  }
  return { element, show };
}

const fact = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));
