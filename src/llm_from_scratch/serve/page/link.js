// The state of the page in its address: what a link to it restores.
//
// The hash is a query string: model, the settings that are not as they were at first, and the seed;
// the prompt; of a text that was written its ids and how many of them are the prompt's; tab, colour,
// mode; parts of the panels under "x." and their name (app.remember). `encode` and `decode` are pure;
// `decode` throws an Error of one line for whatever is not such a hash.

import { debounced } from "./dom.js";
import { DEFAULTS, NAMES, parse } from "./settings.js";

const LONGEST = 200_000; // characters of a hash
const MOST_ID = 2 ** 31 - 1;
export const TABS = ["next", "attention", "tokens", "compare", "training"];
const CHOICES = {
  tab: TABS,
  colour: ["probability", "surprise"],
  mode: ["text", "chat"],
};
const KEYS = new Set(["v", "model", ...NAMES, "prompt", "given", "ids", ...Object.keys(CHOICES)]);

// {model, settings, prompt, given, ids, tab, colour, mode, parts: {name: string}} -> a hash
// without "#". given and ids are null for a prompt that is edited. Of a hash without a prompt,
// `decode` makes the prompt null.
export function encode(state) {
  const query = new URLSearchParams({ v: "1" });
  if (state.model !== null) query.set("model", state.model);
  for (const name of NAMES) {
    const value = state.settings[name];
    if (name === "seed" || value !== DEFAULTS[name]) query.set(name, value === null ? "off" : String(value));
  }
  query.set("prompt", state.prompt);
  if (state.ids !== null) {
    query.set("given", String(state.given));
    query.set("ids", packed(state.ids));
  }
  for (const [name, choices] of Object.entries(CHOICES)) {
    if (state[name] !== choices[0]) query.set(name, state[name]);
  }
  for (const [name, part] of Object.entries(state.parts)) if (part !== "") query.set(`x.${name}`, part);
  return query.toString();
}

export function decode(hash) {
  if (hash.length > LONGEST) throw new Error("The link is too long.");
  const query = new URLSearchParams(hash);
  const values = new Map(query);
  if ([...query].length !== values.size) throw new Error("The link says something twice.");
  if (values.get("v") !== "1") throw new Error("The link is none of this page’s.");
  const state = { model: values.get("model") ?? null, settings: { ...DEFAULTS }, parts: {} };
  for (const [key, value] of values) {
    if (NAMES.includes(key)) state.settings[key] = parse(key, value);
    else if (/^x\.[a-z]+$/.test(key)) state.parts[key.slice(2)] = value;
    else if (!KEYS.has(key)) throw new Error("The link has a part that this page does not know.");
  }
  for (const [name, choices] of Object.entries(CHOICES)) {
    state[name] = values.get(name) ?? choices[0];
    if (!choices.includes(state[name])) throw new Error(`The link names no ${name} of this page.`);
  }
  state.prompt = values.get("prompt") ?? null;
  state.ids = values.has("ids") ? unpacked(values.get("ids")) : null;
  state.given = null;
  if (state.ids !== null) {
    state.given = Number(values.get("given"));
    if (!/^\d+$/.test(values.get("given") ?? "") || state.given < 1 || state.given > state.ids.length) {
      throw new Error("The link does not say which tokens are the prompt’s.");
    }
  }
  return state;
}

// Ids as base64url of numbers of 7 bits a byte, the lowest first, 128 added to all but the last.
export function packed(ids) {
  const bytes = [];
  for (let id of ids) {
    for (; id > 127; id = Math.floor(id / 128)) bytes.push((id % 128) + 128);
    bytes.push(id);
  }
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

export function unpacked(text) {
  const broken = new Error("The tokens of the link cannot be read.");
  if (!/^[A-Za-z0-9_-]+$/.test(text)) throw broken;
  let binary;
  try {
    binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  } catch {
    throw broken;
  }
  const ids = [];
  let id = 0;
  let scale = 1;
  for (const character of binary) {
    const byte = character.charCodeAt(0);
    id += (byte % 128) * scale;
    scale *= 128;
    if (id > MOST_ID || scale > 2 ** 42) throw broken;
    if (byte > 127) continue;
    ids.push(id);
    id = 0;
    scale = 1;
  }
  if (scale !== 1) throw broken;
  return ids;
}

// Restores what the address says, keeps the address up to date, and mounts the button that copies it.
export async function mountLink(app) {
  const notice = document.getElementById("notice");
  const share = document.getElementById("share");
  let restores = 0; // how many hashes are being restored

  function state() {
    const parts = Object.fromEntries([...app.remembered].map(([name, { save }]) => [name, save()]));
    const { settings, tab, colour, mode } = app;
    return { model: app.model?.name ?? null, settings, ...app.text(), tab, colour, mode, parts };
  }

  function save() {
    if (app.busy || restores > 0) return;
    const hash = `#${encode(state())}`;
    if (hash !== location.hash) history.replaceState(null, "", hash);
  }

  async function restore() {
    const hash = location.hash.slice(1);
    notice.textContent = "";
    if (hash === "") return;
    restores += 1;
    let rest = "Nothing was restored.";
    try {
      const state = decode(hash);
      const tokens = await read(app, state);
      if (hash !== location.hash.slice(1)) return; // another one came meanwhile
      rest = "The rest was restored.";
      apply(app, state, tokens);
    } catch (error) {
      notice.textContent = `${error.message.replace(/\.$/, "")}. ${rest}`;
    } finally {
      restores -= 1;
    }
  }

  await restore();
  const soon = debounced(save, 400);
  for (const name of ["tokens", "prompt", "settings", "model", "tab", "colour", "mode", "busy", "link"]) {
    app.on(name, soon);
  }
  addEventListener("hashchange", () => app.follow(restore));
  share.addEventListener("click", async () => {
    save();
    try {
      await navigator.clipboard.writeText(location.href);
      share.textContent = "Copied";
      app.say("The link is copied.");
    } catch {
      notice.textContent = "The link is in the address bar: copy it from there.";
    }
    setTimeout(() => (share.textContent = "Copy link"), 1500);
  });
}

const modelOf = (app, state) => (state.model === null ? app.model : app.models.find((one) => one.name === state.model));

// The tokens of a link's text, or null where it has none. Throws an Error for what this server lacks.
async function read(app, state) {
  const model = modelOf(app, state);
  if (model === undefined) throw new Error(`The link needs the model “${state.model}”, which this server has not.`);
  if (state.mode === "chat" && !model?.chat) throw new Error("The link is a chat, which its model cannot hold.");
  for (const name of Object.keys(state.parts)) {
    if (!app.remembered.has(name)) throw new Error("The link has a part that this page does not know.");
  }
  if (state.ids === null) return null;
  if (model === null || state.ids.some((id) => id >= model.vocabulary)) {
    throw new Error("The tokens of the link are none of its model’s.");
  }
  return (await app.api.post("/play/read", { model: model.name, ids: state.ids, top: 10 })).tokens;
}

function apply(app, state, tokens) {
  app.set("model", modelOf(app, state));
  app.set("mode", state.mode);
  app.set("settings", state.settings); // after the mode, which has defaults of its own
  app.set("colour", state.colour);
  if (state.prompt !== null || tokens !== null) app.restore(state, tokens);
  app.set("tab", state.tab);
  const failures = Object.entries(state.parts).flatMap(([name, part]) => {
    try {
      app.remembered.get(name).load(part);
      return [];
    } catch (error) {
      return [error];
    }
  });
  if (failures.length > 0) throw failures[0];
}
