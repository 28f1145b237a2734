// What one token attends to: the text shaded by its weights, and a table of the largest ones.

import { make } from "./dom.js";
import { strength } from "./pattern.js";
import { pieces, spoken, visible } from "./token.js";
import { drawing } from "./view.js";

const ROWS = 8; // of the table

// A token in a sentence: “␣the” (token 7). `first` is the number of the first of `tokens`.
export const named = (tokens, index, first) => `“${visible(tokens[index])}” (token ${first + index})`;

// readingView(select) -> {element, write(tokens, first), update(row, weights)}; select(index) is called
// when the reader chooses another token.
export function readingView(select) {
  const title = make("h2");
  const text = make("div", { class: "tokens shaded", role: "listbox", "aria-label": "Tokens", dir: "auto" });
  const table = make("table", { class: "figures" });
  const element = make("div", { class: "reading" }, title, text, table);
  let tokens = [];
  let first = 1;
  let at = 0; // the token that looks back

  text.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) select([...text.children].indexOf(option));
  });
  text.addEventListener("keydown", (event) => {
    const last = tokens.length - 1;
    const steps = { ArrowLeft: at - 1, ArrowUp: at - 1, ArrowRight: at + 1, ArrowDown: at + 1, Home: 0, End: last };
    if (!(event.key in steps)) return;
    event.preventDefault();
    select(Math.min(Math.max(steps[event.key], 0), last));
    text.children[at].focus();
  });

  // Another text; `firstNumber` is the number of its first token in the whole text.
  function write(newTokens, firstNumber) {
    const same = newTokens.length === tokens.length && newTokens.every(({ id }, index) => id === tokens[index].id);
    [tokens, first] = [newTokens, firstNumber];
    if (same) return; // the elements stay, and with them the focus
    const texts = pieces(tokens);
    text.replaceChildren(
      ...tokens.map((token, index) =>
        make("span", { role: "option", class: "token" }, ...drawing(token, texts[index])),
      ),
    );
  }

  // Shows what token `row` attends to: weights[t] for each token t up to itself.
  function update(row, weights) {
    at = row;
    [...text.children].forEach((option, index) => {
      const weight = weights[index]?.toFixed(4) ?? "comes later";
      option.classList.toggle("later", index > row);
      option.style.setProperty("--heat", `${Math.round(100 * strength(weights[index] ?? 0))}%`);
      option.setAttribute("aria-selected", String(index === row));
      option.setAttribute("aria-label", `${spoken(tokens[index])}, token ${first + index}, ${weight}`);
      option.title = `token ${first + index}: ${weight}`;
      option.tabIndex = index === row ? 0 : -1;
    });
    reveal(text.children[row]);
    title.textContent = `What ${named(tokens, row, first)} attends to`;
    table.replaceChildren(
      make("caption", { class: "unseen" }, "The largest weights"),
      make("thead", {}, make("tr", {}, ...heads())),
      make("tbody", {}, ...lines(weights)),
    );
  }

  // Scrolls within the text alone: the page stays where it is.
  function reveal(option) {
    const top = option.offsetTop - text.scrollTop;
    const seen = top >= 0 && top + option.offsetHeight <= text.clientHeight;
    if (!seen) text.scrollTop = option.offsetTop - text.clientHeight / 2;
  }

  function lines(weights) {
    const order = weights.map((_, index) => index).sort((a, b) => weights[b] - weights[a]);
    const shown = order.slice(0, ROWS).map((index) => line(first + index, visible(tokens[index]), weights[index]));
    const rest = order.slice(ROWS);
    if (rest.length === 0) return shown;
    const sum = rest.reduce((total, index) => total + weights[index], 0);
    return [...shown, line("", `${rest.length} others together`, sum)];
  }

  return { element, write, update };
}

const heads = () => [
  make("th", { scope: "col", class: "number" }, "Token"),
  make("th", { scope: "col" }, "Text"),
  make("th", { scope: "col", class: "number", colspan: 2 }, "Weight"),
];

function line(number, name, weight) {
  const bar = make("span", { class: "bar" });
  bar.style.setProperty("--part", `${100 * weight}%`);
  return make(
    "tr",
    {},
    make("td", { class: "number" }, String(number)),
    make("th", { scope: "row", class: "glyphs" }, name),
    make("td", { class: "bars", "aria-hidden": "true" }, bar),
    make("td", { class: "number" }, weight.toFixed(4)),
  );
}
