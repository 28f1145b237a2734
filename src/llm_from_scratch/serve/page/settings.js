// The settings of sampling: a sentence, a slider, a number and a reset for each.
//
// Names and ranges are those of /v1/completions. null is "off". `app.settings` is a new object after
// each change, with the event "settings".

import { icon, make } from "./dom.js";

const SETTINGS = [
  {
    name: "temperature",
    label: "Temperature",
    says: "Below 1 likely tokens gain, above 1 unlikely ones do; 0 always takes the likeliest.",
    default: 1,
    least: 0,
    most: 100,
    slider: { from: 0, to: 2, step: 0.05 },
  },
  {
    name: "top_k",
    label: "Top-k",
    says: "Only this many of the likeliest tokens remain possible.",
    default: null,
    least: 1,
    most: 2 ** 31 - 1,
    whole: true,
    slider: { from: 1, to: 1000, log: true, off: "end" },
  },
  {
    name: "top_p",
    label: "Top-p",
    says: "Only the likeliest tokens remain possible that reach this probability together.",
    default: null,
    least: 0,
    most: 1,
    above: true,
    slider: { from: 0.01, to: 1, step: 0.01, off: "end" },
  },
  {
    name: "min_p",
    label: "Min-p",
    says: "A token remains possible if its probability is at least this share of the likeliest token’s.",
    default: null,
    least: 0,
    most: 1,
    above: true,
    slider: { from: 0, to: 0.5, step: 0.01, off: "start" },
  },
  {
    name: "repetition_penalty",
    label: "Repetition penalty",
    says: "Above 1 a token becomes less likely if the text already holds it.",
    default: 1,
    least: 0,
    most: 100,
    above: true,
    slider: { from: 1, to: 2, step: 0.05 },
  },
  {
    name: "seed",
    label: "Seed",
    says: "Where chance begins: the same seed and the same settings write the same text again.",
    default: 1,
    least: 0,
    most: 2 ** 53 - 1,
    whole: true,
  },
  {
    name: "max_tokens",
    label: "Length",
    says: "How many tokens are written at most.",
    default: 60,
    least: 1,
    most: 2 ** 31 - 1,
    whole: true,
    slider: { from: 1, to: 500, log: true },
  },
];

export const NAMES = SETTINGS.map((setting) => setting.name);
export const LABELS = Object.freeze(Object.fromEntries(SETTINGS.map((setting) => [setting.name, setting.label])));
export const DEFAULTS = Object.freeze(Object.fromEntries(SETTINGS.map((setting) => [setting.name, setting.default])));
const OF_CHAT = Object.freeze({ ...DEFAULTS, temperature: 0.7 }); // as the command `chat`: answers at 1 wander

// The settings at first, of a text or of a conversation.
export const defaults = (mode) => (mode === "chat" ? OF_CHAT : DEFAULTS);

// A value as it was typed -> the value; throws an Error of one line.
export function parse(name, text) {
  const setting = SETTINGS.find((one) => one.name === name);
  if (text.trim() === "" || text.trim() === "off") {
    if (setting.default === null) return null;
    throw new Error(`${setting.label}: give a number.`);
  }
  const value = Number(text);
  const inside = setting.above ? value > setting.least : value >= setting.least;
  if (!Number.isFinite(value) || !inside || value > setting.most || (setting.whole && !Number.isInteger(value))) {
    const kind = setting.whole ? "a whole number" : "a number";
    const from = `${setting.above ? "above" : "from"} ${setting.least}`;
    const to = setting.most > 1e6 ? "" : ` to ${setting.most}`;
    throw new Error(`${setting.label}: give ${kind} ${from}${to}.`);
  }
  return value;
}

const STEPS = 100; // of a slider whose scale is logarithmic

// The place of a value on a slider, and back. A place that means "off" is one of the two ends.
function toPlace(slider, value) {
  if (value === null) return slider.off === "end" ? rangeOf(slider)[1] : rangeOf(slider)[0];
  if (!slider.log) return value;
  return STEPS * (Math.log(value / slider.from) / Math.log(slider.to / slider.from));
}

function fromPlace(slider, place) {
  const [first, last] = rangeOf(slider);
  if ((slider.off === "end" && place >= last) || (slider.off === "start" && place <= first)) return null;
  if (!slider.log) return place;
  return Math.round(slider.from * (slider.to / slider.from) ** (place / STEPS));
}

function rangeOf(slider) {
  if (!slider.log) return [slider.from, slider.to];
  return [0, slider.off === "end" ? STEPS + 1 : STEPS];
}

export function mount(root, app) {
  const rows = SETTINGS.map((setting) => row(setting, app));
  const all = make(
    "button",
    { type: "button", class: "quiet small", onclick: () => app.set("settings", { ...defaults(app.mode) }) },
    "Reset all",
  );
  root.append(make("div", { class: "title" }, make("h2", {}, "How the next token is drawn"), all));
  root.append(...rows.map((one) => one.element));
  const show = () => {
    rows.forEach((one) => one.show());
    all.disabled = NAMES.every((name) => app.settings[name] === defaults(app.mode)[name]);
  };
  let mode = app.mode;
  app.on("mode", () => {
    const kept = NAMES.filter((name) => app.settings[name] !== defaults(mode)[name]);
    mode = app.mode;
    const own = Object.fromEntries(kept.map((name) => [name, app.settings[name]]));
    app.set("settings", { ...defaults(mode), ...own });
  });
  app.on("settings", show);
  show();
}

function row(setting, app) {
  const { name, label, says, slider } = setting;
  const change = (value) => app.settings[name] !== value && app.set("settings", { ...app.settings, [name]: value });
  const range =
    slider &&
    make("input", {
      type: "range",
      id: `${name}-slider`,
      min: rangeOf(slider)[0],
      max: rangeOf(slider)[1],
      step: slider.step ?? 1,
      "aria-label": label,
      "aria-describedby": `${name}-says`,
      oninput: () => change(fromPlace(slider, Number(range.value))),
    });
  const wrong = make("p", { class: "wrong", id: `${name}-wrong`, role: "alert" });
  const number = make("input", {
    id: `${name}-number`,
    inputmode: setting.whole ? "numeric" : "decimal",
    autocomplete: "off",
    placeholder: "off",
    "aria-describedby": `${name}-says ${name}-wrong`,
    oninput: () => read(number.value),
    onblur: () => show(),
  });
  const reset = make(
    "button",
    {
      type: "button",
      class: "quiet only-icon",
      "aria-label": `Reset ${label}`,
      title: "Reset",
      onclick: () => change(defaults(app.mode)[name]),
    },
    icon("reset"),
  );

  // A number that is not one changes nothing, and the line under it says why.
  function read(text) {
    try {
      const value = parse(name, text);
      wrong.textContent = "";
      number.removeAttribute("aria-invalid");
      change(value);
    } catch (error) {
      wrong.textContent = error.message;
      number.setAttribute("aria-invalid", "true");
    }
  }

  function show() {
    const value = app.settings[name];
    if (range) {
      range.value = toPlace(slider, value);
      range.setAttribute("aria-valuetext", value === null ? "off" : String(value));
    }
    if (document.activeElement !== number) {
      number.value = value ?? "";
      number.removeAttribute("aria-invalid");
      wrong.textContent = "";
    }
    const changed = value !== defaults(app.mode)[name];
    if (!changed && document.activeElement === reset) number.focus();
    reset.disabled = !changed;
  }

  const element = make(
    "div",
    { class: "setting" },
    make("label", { for: `${name}-number` }, label),
    range ?? make("span", { class: "nothing" }),
    number,
    reset,
    make("p", { class: "hint", id: `${name}-says` }, says),
    wrong,
  );
  return { element, show };
}
