// Draws the formulas; what scrolls sideways can be reached with the keyboard.
for (const one of document.querySelectorAll(".math")) {
  katex.render(one.textContent, one, { displayMode: one.tagName === "DIV", throwOnError: false });
}
for (const one of document.querySelectorAll("pre, .table-wrapper, .katex-display")) {
  if (one.scrollWidth > one.clientWidth) one.tabIndex = 0;
}
