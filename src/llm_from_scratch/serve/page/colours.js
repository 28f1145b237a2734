// The switch between the colours of tokens, and what they mean in numbers.

import { make } from "./dom.js";
import { MOST_BITS } from "./token.js";

// `name` is that of its radio buttons, another one for each switch of the page.
export function colours(app, name) {
  const legend = make("p", { class: "legend" });
  const choice = (value, label) =>
    make(
      "label",
      {},
      make("input", { type: "radio", name, value, onchange: () => app.set("colour", value) }),
      make("span", {}, label),
    );
  const field = make(
    "fieldset",
    { class: "switch" },
    make("legend", { class: "unseen" }, "Colour of the tokens"),
    choice("probability", "Probability"),
    choice("surprise", "Surprise"),
  );
  const show = () => {
    document.body.dataset.colour = app.colour;
    for (const input of field.querySelectorAll("input")) input.checked = input.value === app.colour;
    const most = app.colour === "probability" ? 100 : MOST_BITS;
    const steps = [0, 0.25, 0.5, 0.75, 1].map((part) => {
      const step = make("span", { class: "step" }, String(most * part));
      step.style.setProperty("--heat", `${100 * part}%`);
      return step;
    });
    const unit = app.colour === "probability" ? "%" : "or more bits";
    legend.replaceChildren(...steps, make("span", { class: "unit" }, unit));
  };
  app.on("colour", show);
  show();
  return make("div", { class: "colours" }, field, legend);
}
