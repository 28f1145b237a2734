// Makes elements. Text becomes text nodes, never markup.

// make("button", {class: "quiet", disabled: true, onclick: f, "aria-label": "x"}, "text", child)
// A property of true sets an empty attribute; null, undefined and false leave it out.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Text that is seen, and in its place what a screen reader says.
export function seenAs(seen, said, kind) {
  return [make("span", { class: kind, "aria-hidden": "true" }, seen), make("span", { class: "unseen" }, said)];
}

const ICONS = {
  undo: "M7 5 3 9l4 4M3 9h10a4 4 0 0 1 0 8h-3",
  redo: "M13 5l4 4-4 4M17 9H7a4 4 0 0 0 0 8h3",
  reset: "M4 4v4h4M4.600 8a6.500 6.500 0 1 1-1 4",
};

// A drawing of 20 by 20 in the colour of the text; a button with it needs an aria-label.
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

// Calls work at most once a frame, with the latest state.
export function framed(work) {
  let waits = false;
  return () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      work();
    });
  };
}

// Calls work `milliseconds` after the last of several calls.
export function debounced(work, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, milliseconds);
  };
}
