// A text as one button a token, in which writing.js and chat.js show what a model wrote.
//
// tokenView(app, {label, choose, walk, first}) -> {element, update(tokens, forks)}
//   choose(index, alternative)  the reader wants to go on from this token at this place
//   walk(version)               the reader wants another version: a chip was chosen
//   first()                     the place in app.tokens of the first token of this text; null: not
//                               among them, and never app.selected
// Left and Right walk the tokens, Enter or Down enters the alternatives (alternatives.js). The
// elements of tokens that stay the same stay in the page, so that nothing jumps while it streams.

import { createAlternatives } from "./alternatives.js";
import { make } from "./dom.js";
import { figures, heat, hex, pieces, sign, spoken } from "./token.js";

export function tokenView(app, { label, choose, walk = () => {}, first = () => 0 }) {
  const text = make("div", { class: "tokens", role: "group", "aria-label": label, dir: "auto" });
  const element = make("div", { class: "tokenview" }, text);
  let shown = []; // [{token, piece, fork, nodes, button}]
  let current = 0; // the token in the order of the Tab key
  let wanted = null; // the token that gets the focus when it comes
  let quiet = false; // whether that focus leaves the alternatives closed

  const alternatives = createAlternatives(element, {
    choose: (index, alternative) => {
      if (alternative.id === shown[index].token.id) focus(index, true); // it stays in the page
      else wanted = index;
      choose(index, alternative);
    },
    back: (index) => focus(index, true),
  });

  function focus(index, keepClosed = false) {
    const entry = shown[Math.min(index, shown.length - 1)];
    if (!entry) return;
    quiet = keepClosed;
    entry.button.focus();
    quiet = false;
  }

  function makeCurrent(index) {
    if (shown[current]) shown[current].button.tabIndex = -1;
    current = Math.max(0, Math.min(index, shown.length - 1));
    if (shown[current]) shown[current].button.tabIndex = 0;
  }

  // The index of the token that an event is about, or -1.
  const indexOf = (target) => shown.findIndex((entry) => entry.button === target.closest?.(".token"));

  function open(index) {
    const { button, token } = shown[index];
    alternatives.open(index, button, token);
  }

  text.addEventListener("focusin", (event) => {
    const index = indexOf(event.target);
    if (index < 0) return;
    makeCurrent(index);
    if (first() !== null) app.set("selected", first() + index);
    if (!quiet) open(index);
  });
  element.addEventListener("focusout", (event) => {
    if (element.contains(event.relatedTarget)) return;
    alternatives.close();
    if (event.relatedTarget !== null) return; // another place of the page: the token stays selected
  });
  text.addEventListener("pointerover", (event) => {
    const index = indexOf(event.target);
    if (index >= 0 && event.pointerType === "mouse") alternatives.openSoon(() => open(index));
  });
  element.addEventListener("pointerleave", () => alternatives.closeSoon());
  text.addEventListener("click", (event) => {
    const index = indexOf(event.target);
    if (index >= 0) open(index);
  });
  text.addEventListener("keydown", (event) => {
    const index = indexOf(event.target);
    if (index < 0) return;
    const left = getComputedStyle(text).direction === "rtl" ? "ArrowRight" : "ArrowLeft";
    const right = left === "ArrowLeft" ? "ArrowRight" : "ArrowLeft";
    const steps = { [left]: index - 1, [right]: index + 1, Home: 0, End: shown.length - 1 };
    if (event.key in steps) {
      focus(Math.max(0, Math.min(shown.length - 1, steps[event.key])));
    } else if (event.key === "Enter" || event.key === " " || event.key === "ArrowDown") {
      open(index);
      alternatives.enter();
    } else if (event.key === "Escape") {
      alternatives.close();
    } else {
      return;
    }
    event.preventDefault();
  });
  function markSelected() {
    if (element.offsetParent === null) return; // another text is shown
    const selected = app.selected === null || first() === null ? null : app.selected - first();
    shown.forEach(({ button }, index) => button.classList.toggle("selected", index === selected));
  }
  app.on("selected", markSelected);
  app.on("colour", () => shown.forEach(({ button, token }) => paint(button, token, app.colour)));

  // Shows another version; the focus stays at the place where the versions part.
  function walkFrom(version, place) {
    walk(version);
    text.querySelector(`.chips[data-at="${place}"] [aria-pressed="true"]`)?.focus();
  }

  // Gives a token of the page its numbers, which come later than the token; an open card stays open.
  function renew(index, token) {
    shown[index].token = token;
    describe(shown[index].button, token, app.colour);
    if (alternatives.index() !== index) return;
    alternatives.close();
    open(index);
  }

  function update(tokens, forks = []) {
    const texts = pieces(tokens);
    const at = new Map(forks.map((fork) => [fork.at, fork]));
    const keyOf = (fork) => (fork ? `${fork.versions} ${fork.here}` : "");
    const stays = (index) =>
      index < tokens.length &&
      shown[index].token.id === tokens[index].id &&
      shown[index].token.given === tokens[index].given &&
      shown[index].piece === texts[index] &&
      shown[index].fork === keyOf(at.get(index));
    let same = 0;
    while (same < shown.length && stays(same)) {
      if (shown[same].token !== tokens[same]) renew(same, tokens[same]);
      same += 1;
    }
    const held = indexOf(document.activeElement ?? text);
    if (alternatives.index() >= same) alternatives.close();
    for (const entry of shown.splice(same)) entry.nodes.forEach((node) => node.remove());
    text.querySelector(":scope > .chips.end")?.remove();
    for (let index = same; index < tokens.length; index += 1) {
      const fork = at.get(index);
      const button = tokenButton(tokens[index], texts[index], app.colour);
      const nodes = fork ? [chips(fork, walkFrom), button] : [button];
      text.append(...nodes);
      shown.push({ token: tokens[index], piece: texts[index], fork: keyOf(fork), nodes, button });
    }
    if (at.has(tokens.length)) text.append(chips(at.get(tokens.length), walkFrom, "end"));
    makeCurrent(current);
    markSelected();
    if (held >= same && wanted === null) wanted = held;
    if (wanted !== null && wanted < shown.length && same <= wanted) {
      focus(wanted, true);
      wanted = null;
    }
  }

  return { element, update };
}

// The button of a token. A span, since a button cannot be broken between lines.
function tokenButton(token, piece, colour) {
  const button = make("span", {
    class: token.given ? "token given" : "token",
    role: "button",
    tabindex: -1,
  });
  button.dataset.id = token.id;
  button.append(...drawing(token, piece));
  describe(button, token, colour);
  return button;
}

// What a button says of its token: the numbers, in words and as a colour, and that it has a menu.
function describe(button, token, colour) {
  button.setAttribute("aria-label", [spoken(token), figures(token)].filter(Boolean).join(", "));
  if (token.top?.length) button.setAttribute("aria-haspopup", "menu");
  else button.removeAttribute("aria-haspopup");
  delete button.dataset.logprob;
  if (token.logprob !== null && token.logprob !== undefined) button.dataset.logprob = token.logprob;
  paint(button, token, colour);
}

// What is seen of a token: its piece of the running text, with signs for what would not be seen.
export function drawing(token, piece) {
  if (piece === "") {
    const own = token.bytes.length > 0 ? hex(token) : token.text || `id ${token.id}`;
    return [make("span", { class: "sign" }, own)];
  }
  const nodes = [];
  let plain = "";
  for (const character of piece) {
    const drawn = sign(character);
    if (drawn === null) {
      plain += character;
      continue;
    }
    nodes.push(plain, make("span", { class: "sign", "aria-hidden": "true" }, drawn));
    plain = character === "\n" || character === "\t" ? character : "";
  }
  return [...nodes, plain];
}

function paint(button, token, colour) {
  button.style.setProperty("--heat", `${Math.round(100 * heat(token, colour))}%`);
}

// The versions that part here, as small numbers.
function chips(fork, walk, place = "") {
  const group = make("span", { class: `chips ${place}`, role: "group", "aria-label": "Versions from here" });
  group.dataset.at = fork.at;
  fork.versions.forEach((version, index) => {
    const here = index === fork.here;
    const name = `Version ${index + 1} of ${fork.versions.length} from here`;
    group.append(
      make(
        "button",
        { type: "button", "aria-pressed": String(here), "aria-label": name, title: name, onclick: () => walk(version, fork.at) },
        String(index + 1),
      ),
    );
  });
  return group;
}
