// Below the attention: what each layer would say after the selected token, and what the heads do.

import { debounced, make } from "./dom.js";
import { named } from "./reading.js";
import { percent, visible } from "./token.js";

const NAMES = {
  previous: "the token before",
  first: "the first token",
  itself: "itself",
  same: "the same token before",
  induction: "the token after the same one (induction)",
};

// insideView(app, choose) -> {element, show(tokens, place, first)}; choose(layer, head) is called when
// the reader picks a head. `first` is the number of the first of `tokens`. It asks when it is open.
export function insideView(app, choose) {
  const title = make("h3");
  const layers = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Layer by layer" });
  const heads = make("div", { class: "scroll whole", tabindex: 0, role: "region", "aria-label": "What the heads attend to" });
  const element = make(
    "details",
    { class: "inside" },
    make("summary", {}, "Layer by layer, and what the heads do"),
    title,
    layers,
    make("p", { class: "hint" }, "The logit lens: the final norm and the head read what stands after each layer. Early rows are often nonsense."),
    make("h3", {}, "What the heads attend to"),
    heads,
    make("p", { class: "hint" }, "Mean weights over this text; induction is measured on random tokens that repeat. Beside each stands what a head has that attends to all alike."),
  );
  let asked = null; // {tokens, place, first}: what is to be shown
  let answered = ""; // the question whose answer is shown
  let request = null;

  async function ask() {
    if (!element.open || asked === null || app.tab !== "attention" || app.busy) return;
    const { tokens, place, first } = asked;
    const question = { model: app.model.name, ids: tokens.map((token) => token.id), place };
    if (JSON.stringify(question) === answered) return;
    request?.abort();
    request = new AbortController();
    element.setAttribute("aria-busy", "true");
    try {
      const found = await app.api.post("/play/inside", question, { signal: request.signal });
      answered = JSON.stringify(question);
      title.textContent = `What each layer would say after ${named(tokens, place, first)}`;
      layers.replaceChildren(table(["Layer", "Likeliest next tokens"], found.lens.map(reading)));
      heads.replaceChildren(table(["Mean weight on", "Strongest heads", "All alike"], found.heads.map(measure)));
    } finally {
      element.setAttribute("aria-busy", "false");
    }
  }

  const soon = debounced(() => app.follow(ask), 150);
  element.addEventListener("toggle", soon);

  function measure({ measure: name, even, strongest }) {
    const buttons = strongest.map(({ layer, head, weight }) =>
      make(
        "button",
        { type: "button", class: "quiet small", title: "Show this head", onclick: () => choose(layer, head) },
        `layer ${layer + 1}, head ${head + 1}: ${weight.toFixed(2)}`,
      ),
    );
    const cells = make("td", {}, make("div", { class: "row" }, ...buttons));
    return make("tr", {}, make("th", { scope: "row" }, NAMES[name]), cells, make("td", { class: "number" }, even.toFixed(2)));
  }

  return {
    element,
    show(tokens, place, first) {
      asked = { tokens, place, first };
      soon();
    },
  };
}

const table = (names, rows) =>
  make(
    "table",
    { class: "figures" },
    make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...rows),
  );

function reading({ layer, tokens }) {
  const words = tokens.map((token) => make("span", { class: "glyphs" }, `${visible(token)} ${percent(token.p)}`));
  return make(
    "tr",
    {},
    make("th", { scope: "row", class: "number" }, layer === 0 ? "embedding" : String(layer)),
    make("td", {}, make("span", { class: "row" }, ...words)),
  );
}
