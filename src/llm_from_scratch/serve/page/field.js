// A setting of sampling as a label and a number, for places without room for settings.js's sliders.

import { make } from "./dom.js";
import { LABELS, parse } from "./settings.js";

// get() -> the value; set(value) is called with each number that is one: what is none changes
// nothing, and a line says why. Returns {element, show()}; show() reads the value again.
export function settingField(id, name, get, set) {
  const wrong = make("p", { class: "wrong", id: `${id}-wrong` });
  const input = make("input", {
    id,
    inputmode: "decimal",
    autocomplete: "off",
    placeholder: "off",
    "aria-describedby": wrong.id,
    oninput: read,
    onblur: show,
  });
  const element = make("div", { class: "setting-field" }, make("label", { for: id }, LABELS[name]), input, wrong);

  function read() {
    try {
      const value = parse(name, input.value);
      tell("");
      set(value);
    } catch (error) {
      tell(error.message);
    }
  }

  function tell(line) {
    wrong.textContent = line;
    input.setAttribute("aria-invalid", String(line !== ""));
  }

  function show() {
    input.value = get() ?? "";
    tell("");
  }

  show();
  return { element, show };
}
