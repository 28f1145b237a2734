// The card beside a token: how likely it was, and what else could have stood there.
//
// A menu that opens on hover and focus. Enter or Down moves into it, Up and Down walk it, Enter
// goes on from an alternative, Escape leads back to the token.

import { make, seenAs } from "./dom.js";
import { bits, percent, spoken, visible } from "./token.js";

const OPEN_MS = 90; // a pointer that only passes opens nothing
const CLOSE_MS = 220; // a pointer may cross the gap to the card

let cards = 0;

// choose(index, alternative); back(index): the focus goes to the token again.
export function createAlternatives(within, { choose, back }) {
  const card = make("div", { class: "card", id: `card-${(cards += 1)}`, hidden: true });
  within.append(card);
  let of = null; // {index, anchor} while it is open
  let timer = 0;

  function open(index, anchor, token) {
    clearTimeout(timer);
    if (of?.anchor === anchor && !card.hidden) return;
    close();
    of = { index, anchor };
    card.replaceChildren(...content(token, (alternative) => pick(alternative)));
    card.hidden = false;
    anchor.setAttribute("aria-expanded", "true");
    anchor.setAttribute("aria-controls", card.id);
    put();
  }

  function pick(alternative) {
    const { index } = of;
    close();
    choose(index, alternative);
  }

  function close() {
    clearTimeout(timer);
    of?.anchor.removeAttribute("aria-expanded");
    of?.anchor.removeAttribute("aria-controls");
    of = null;
    card.hidden = true;
  }

  // Puts the card under the token's first line, or above it where there is no room.
  function put() {
    const frame = within.getBoundingClientRect();
    const word = of.anchor.getClientRects()[0] ?? of.anchor.getBoundingClientRect();
    const left = Math.max(0, Math.min(word.left - frame.left - 12, frame.width - card.offsetWidth));
    const below = word.bottom + card.offsetHeight + 12 < innerHeight || word.top < card.offsetHeight + 12;
    const top = below ? word.bottom - frame.top + 6 : word.top - frame.top - card.offsetHeight - 6;
    card.style.setProperty("left", `${left}px`);
    card.style.setProperty("top", `${top}px`);
  }

  const items = () => [...card.querySelectorAll("[role=menuitem]")];

  card.addEventListener("keydown", (event) => {
    const all = items();
    const place = all.indexOf(document.activeElement);
    if (event.key === "Escape" || (event.key === "ArrowUp" && place === 0)) {
      const { index } = of;
      event.preventDefault();
      event.stopPropagation();
      back(index);
      if (event.key === "Escape") close();
      return;
    }
    const steps = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: all.length - 1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    all[Math.min(all.length - 1, steps[event.key])].focus();
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && close());
  // The focus stays at the token: where a browser gives none to a button that is pressed, the token
  // would lose it, and the card would close before the click.
  card.addEventListener("mousedown", (event) => event.preventDefault());
  card.addEventListener("pointerenter", () => clearTimeout(timer));

  return {
    open,
    close,
    index: () => of?.index ?? -1, // of the token whose card is open
    enter: () => items()[0]?.focus(),
    openSoon(work) {
      clearTimeout(timer);
      timer = setTimeout(work, OPEN_MS);
    },
    closeSoon() {
      clearTimeout(timer);
      timer = setTimeout(() => within.contains(document.activeElement) || close(), CLOSE_MS);
    },
  };
}

function content(token, pick) {
  const known = token.logprob !== null && token.logprob !== undefined;
  const facts = known ? `${percent(Math.exp(token.logprob))} · ${bits(token.logprob).toFixed(2)} bits` : "";
  const head = make(
    "p",
    { class: "card-head" },
    ...seenAs(visible(token), `${spoken(token)}, `, "glyphs"),
    make("span", { class: "card-facts" }, facts, make("small", {}, `id ${token.id}`)),
  );
  if (!token.top?.length) return [head, make("p", { class: "hint" }, why(token, known))];
  // The token itself stands among the alternatives, even where ten others were likelier.
  const own = token.top.some((one) => one.id === token.id) ? [] : [token];
  const menu = make("div", { role: "menu", "aria-label": "Go on from another token" });
  for (const one of [...token.top, ...own]) {
    const p = Math.exp(one.logprob);
    const bar = make("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--part", `${100 * p}%`);
    const item = make(
      "button",
      {
        type: "button",
        role: "menuitem",
        tabindex: -1,
        class: one.id === token.id ? "chosen" : null,
        onclick: () => pick(one),
      },
      ...seenAs(visible(one), `${spoken(one)}, `, "glyphs"),
      bar,
      make("span", { class: "number" }, percent(p)),
      one.id === token.id ? make("span", { class: "unseen" }, ", stands here") : null,
    );
    item.dataset.id = one.id;
    item.dataset.logprob = one.logprob;
    menu.append(item);
  }
  return [head, menu, make("p", { class: "hint" }, "Choose one to go on from there.")];
}

function why(token, known) {
  if (known) return "No alternatives are known for this one.";
  return token.given ? "Part of the prompt: nothing was predicted here." : "Nothing is known about this one.";
}
