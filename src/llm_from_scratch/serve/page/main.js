// Builds `app`, which every panel gets, and mounts the panels.
//
// A panel is a module with `mount(root, app)`; root is an element of its own, empty. All text goes
// into the page by textContent. What a panel finds in `app`:
//
//   api                 get, post and stream of api.js
//   version, runs       of this server: its version, the names of runs whose training it shows
//   models, model       of /play/models: all of them; the chosen one, or null where there is none
//   settings            what every request to /play/next and /play/write gets as `settings`
//   tokens              of the text shown: [{id, text, bytes, logprob|null, top|null, given}];
//                       given: a token of the prompt. A new array at every change
//   selected            the index of the token that has the focus, or null
//   mode, tab, colour   "text" | "chat";  "next" | "attention" | "tokens" | "compare" | "training";
//                       "probability" | "surprise"
//   busy                whether the model writes into `tokens` at this moment
//
//   on(name, listener)  events: "tokens" (while busy: at most once a frame), "selected", "model",
//                       "models", "settings", "mode", "tab", "colour", "busy", "prompt".
//                       Returns a function that ends it
//   emit(name)          is called by who changed the value; better: the functions below
//   set(name, value)    app[name] = value and its event, where the value is another one
//   prompt()            the text of the prompt as it stands
//   promptTokens()      a promise of its tokens (of /play/tokens)
//   write(), take(token)   write on at the end of the text; see writing.js
//   show(tokens)        app.tokens = tokens and its event: what chat.js calls with its conversation
//   follow(work)        runs an async function; its error becomes the one line at the top.
//                       An aborted request is no error. Returns a promise that never fails
//   problem(line)       shows an error's line; "" takes it away
//   say(line)           tells a screen reader something that others see
//   refresh()           asks for models and runs again
//   remember(key, {save, load})   a panel's own part of the link: save() -> a short string, "" for
//                       nothing; load(string) may throw, which becomes the notice. Call
//                       emit("link") when it changed. Keys: small letters
//
// Shared by the panels: dom.js (make, framed, debounced), token.js (text and numbers of tokens),
// view.js (a text as one button a token, with its alternatives). A panel that is not seen asks the
// server for nothing: it looks at app.tab, and works when "tab" comes. Nor does it ask while
// app.busy, since a text that is being written changes with every token.

import { createApi, aborted } from "./api.js";
import { mount as mountAttention } from "./attention.js";
import { mount as mountBars } from "./bars.js";
import { mount as mountChat } from "./chat.js";
import { mount as mountCompare } from "./compare.js";
import { mountLink, TABS } from "./link.js";
import { mount as mountLive } from "./live.js";
import { mount as mountSettings, DEFAULTS } from "./settings.js";
import { mount as mountTokens } from "./tokens.js";
import { mount as mountWriting } from "./writing.js";

const byId = (id) => document.getElementById(id);

function createApp() {
  const listeners = new Map();
  const app = {
    api: createApi(askToken),
    version: "",
    runs: [],
    models: [],
    model: null,
    settings: { ...DEFAULTS },
    tokens: [],
    selected: null,
    mode: "text",
    tab: "next",
    colour: "probability",
    busy: false,
    remembered: new Map(),

    on(name, listener) {
      if (!listeners.has(name)) listeners.set(name, new Set());
      listeners.get(name).add(listener);
      return () => listeners.get(name).delete(listener);
    },
    emit(name) {
      for (const listener of listeners.get(name) ?? []) listener();
    },
    set(name, value) {
      if (app[name] === value) return;
      app[name] = value;
      app.emit(name);
    },
    async follow(work) {
      try {
        return await work();
      } catch (error) {
        if (!aborted(error)) app.problem(error.message);
        if (!aborted(error) && !(error.constructor === Error)) console.error(error);
      }
    },
    problem(line) {
      byId("problem").textContent = line;
      byId("problem").parentElement.hidden = line === "";
    },
    say(line) {
      byId("said").textContent = line;
    },
    show(tokens) {
      app.tokens = tokens;
      if (app.selected !== null && app.selected >= tokens.length) app.set("selected", null);
      app.emit("tokens");
    },
    remember(key, part) {
      app.remembered.set(key, part);
    },
    async refresh() {
      const found = await app.api.get("/play/models");
      app.version = found.version;
      app.runs = found.runs;
      app.models = found.models;
      const kept = found.models.find((model) => model.name === app.model?.name);
      app.model = kept ?? found.models[0] ?? null;
      app.emit("models");
      app.emit("model");
    },
  };
  return app;
}

// Opens the form of the token; a promise of it, or of null.
function askToken(wrong) {
  const dialog = byId("ask");
  const input = byId("ask-token");
  if (wrong) byId("ask-why").textContent = "The server refused that token: give another one.";
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const closed = () => resolve(dialog.returnValue === "send" ? input.value.trim() : null);
    dialog.addEventListener("close", closed, { once: true });
  });
}

// The tabs: arrow keys walk them, and the chosen one alone is in the order of the Tab key.
function mountTabs(app) {
  const tab = (name) => byId(`tab-${name}`);
  const show = () => {
    for (const name of TABS) {
      const chosen = name === app.tab;
      tab(name).setAttribute("aria-selected", String(chosen));
      tab(name).tabIndex = chosen ? 0 : -1;
      byId(name).hidden = !chosen;
    }
  };
  for (const name of TABS) tab(name).addEventListener("click", () => app.set("tab", name));
  document.querySelector(".tabs").addEventListener("keydown", (event) => {
    const place = TABS.indexOf(app.tab);
    const steps = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: -1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    app.set("tab", TABS.at(steps[event.key] % TABS.length));
    tab(app.tab).focus();
  });
  app.on("tab", show);
  show();
}

function mountHead(app) {
  const select = byId("model");
  const show = () => {
    select.replaceChildren(
      ...app.models.map((model) => new Option(model.name, model.name, false, model === app.model)),
    );
    select.hidden = app.models.length === 0;
    byId("about").textContent = app.model ? described(app.model) : "";
    byId("mode").hidden = !app.model?.chat;
    if (!app.model?.chat) app.set("mode", "text");
  };
  select.addEventListener("change", () => {
    app.set("model", app.models.find((model) => model.name === select.value));
  });
  byId("mode").addEventListener("change", (event) => app.set("mode", event.target.value));
  app.on("models", show);
  app.on("model", show);
  app.on("mode", () => {
    byId("text").hidden = app.mode !== "text";
    byId("chat").hidden = app.mode !== "chat";
    for (const input of byId("mode").querySelectorAll("input")) input.checked = input.value === app.mode;
  });
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the hash is the link's
    byId(app.mode).querySelector("#message, #prompt:not([hidden]), .tokens [tabindex='0']")?.focus();
  });
}

// One line about a model: "135 M parameters · 30 layers · 9 heads · step 1,200".
function described(model) {
  const parameters = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
  const parts = [
    `${parameters.format(model.parameters)} parameters`,
    `${model.layers} layers`,
    `${model.heads} heads`,
  ];
  if (model.step !== null) parts.push(`step ${model.step.toLocaleString("en")}`);
  return parts.join(" · ");
}

async function start() {
  const app = createApp();
  app.problem("");
  byId("dismiss").addEventListener("click", () => app.problem(""));
  mountHead(app);
  mountTabs(app);
  mountWriting(byId("text"), app);
  mountChat(byId("chat"), app);
  mountBars(byId("bars"), app);
  mountSettings(byId("settings"), app);
  mountAttention(byId("attention"), app);
  mountTokens(byId("tokens"), app);
  mountCompare(byId("compare"), app);
  mountLive(byId("training"), app);
  await app.follow(app.refresh);
  if (app.model === null && app.runs.length > 0) app.set("tab", "training");
  await mountLink(app);
}

start();
