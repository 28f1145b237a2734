// Draws curves as SVG, without a library: axes with round numbers, a label at the end of each curve.

import { ticks } from "./curves.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const LINE = 15; // pixels from one label to the next
const APART = 14; // pixels from one marked point to the next, at least

// draw("text", {x: 1, class: "y"}, "4.5"): an element of SVG.
function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const digits = (number) => number.toFixed(1);
export const whole = (number) => Math.round(number).toLocaleString("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });

// The width in pixels of the widest of some texts, in the font of the chart.
function widest(texts, svg, weight) {
  const context = document.createElement("canvas").getContext("2d");
  context.font = `${weight} 12px ${getComputedStyle(svg).fontFamily}`;
  return Math.ceil(Math.max(0, ...texts.map((text) => context.measureText(text).width)));
}

// Draws into an svg element and returns the scales.
//
//   curves   [{label, kind, points: [{step, value, low, high}], dots}]; kind names the CSS class
//   unit     of the values, in the title above the axis
//   size     {width, height}, pixels
//   best     {step, value}, which gets a ring; or null
//
// -> {left, right, x(step), y(value), step(pixels)}
export function drawChart(svg, { curves, unit, size, best }) {
  const { width, height } = size;
  const shown = curves.filter((curve) => curve.points.some((point) => point.value !== null));
  const steps = shown.flatMap((curve) => [curve.points[0].step, curve.points.at(-1).step]);
  const values = shown.flatMap((curve) => curve.points.flatMap((point) => [point.low, point.high]));
  const numbers = values.filter((value) => value !== null);
  let [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  if (high - low < 1e-6) [low, high] = [low - 0.5, high + 0.5];
  const marks = ticks(low, high, Math.max(3, Math.floor(height / 60)));
  const places = Math.max(0, ...marks.map((mark) => (String(mark).split(".")[1] ?? "").length));
  const left = 10 + widest(marks.map((mark) => mark.toFixed(places)), svg, 400);
  const right = width - 10 - widest(shown.map((curve) => curve.label), svg, 600);
  const [top, bottom] = [26, height - 26];
  const [first, last] = [Math.min(...steps), Math.max(...steps)];
  const span = last - first || 1;
  const pad = (high - low) * 0.03;
  const x = (step) => left + ((step - first) / span) * (right - left);
  const y = (value) => bottom - ((value - low + pad) / (high - low + 2 * pad)) * (bottom - top);

  const axes = draw("g", { class: "axes" });
  axes.append(draw("text", { x: 0, y: 12, class: "unit" }, `${unit}, by step`));
  for (const mark of marks) {
    const at = digits(y(mark));
    axes.append(draw("line", { x1: digits(left), x2: digits(right), y1: at, y2: at }));
    axes.append(draw("text", { x: digits(left - 7), y: at, dy: "0.34em", class: "value" }, mark.toFixed(places)));
  }
  const grid = ticks(first, last, Math.max(2, Math.floor((right - left) / 90))).filter(Number.isInteger);
  for (const mark of grid.length > 0 ? grid : [first]) {
    const at = digits(x(mark));
    axes.append(draw("line", { x1: at, x2: at, y1: bottom, y2: bottom + 4, class: "tick" }));
    axes.append(draw("text", { x: at, y: bottom + 17, class: "step" }, mark < 100_000 ? whole(mark) : compact.format(mark)));
  }
  axes.append(draw("line", { x1: digits(left), x2: digits(right), y1: bottom, y2: bottom, class: "base" }));

  const lines = draw("g", {});
  for (const curve of shown) lines.append(drawCurve(curve, x, y, right - left));
  if (best) {
    lines.append(draw("circle", { cx: digits(x(best.step)), cy: digits(y(best.value)), r: 6.5, class: "best" }));
  }
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(axes, lines, labels(shown, y, right, top, bottom));
  return { left, right, top, bottom, x, y, step: (pixels) => first + ((pixels - left) / (right - left)) * span };
}

function drawCurve(curve, x, y, width) {
  const group = draw("g", { class: `curve ${curve.kind}` });
  const points = curve.points;
  if (points.some((point) => point.value !== null && point.high > point.low)) {
    const there = points.filter((point) => point.value !== null);
    const edge = (key) => there.map((point) => `${digits(x(point.step))},${digits(y(point[key]))}`);
    group.append(draw("path", { class: "band", d: `M${[...edge("high"), ...edge("low").reverse()].join("L")}Z` }));
  }
  let path = "";
  let begun = false;
  for (const point of points) {
    if (point.value !== null) path += `${begun ? "L" : "M"}${digits(x(point.step))},${digits(y(point.value))}`;
    begun = point.value !== null;
  }
  group.append(draw("path", { class: "line", d: path }));
  const there = points.filter((point) => point.value !== null);
  if (there.length === 1 || (curve.dots && there.length * APART < width)) {
    for (const point of there) group.append(mark(curve.kind, x(point.step), y(point.value)));
  }
  return group;
}

// A point: its shape, beside the colour and the dashes of its line, tells its curve.
export function mark(kind, x, y) {
  const at = { transform: `translate(${digits(x)} ${digits(y)})`, class: `mark ${kind}` };
  if (kind.startsWith("watched")) return draw("path", { ...at, d: "M0,-4.5L4.5,0L0,4.5L-4.5,0Z" });
  if (kind === "raw") return draw("path", { ...at, d: "M-3.2,-3.2H3.2V3.2H-3.2Z" });
  return draw("circle", { ...at, r: kind === "train" ? 2.8 : 3.4 });
}

// The name of each curve at its end; names that would touch move apart.
function labels(curves, y, right, top, bottom) {
  const group = draw("g", { class: "labels" });
  const ends = curves.map((curve) => ({ curve, at: y(curve.points.findLast((point) => point.value !== null).value) }));
  ends.sort((a, b) => a.at - b.at);
  ends.forEach((end, place) => {
    end.place = Math.max(end.at, place > 0 ? ends[place - 1].place + LINE : top + 4);
  });
  ends.toReversed().forEach((end, back) => {
    const below = back > 0 ? ends[ends.length - back].place - LINE : bottom - 4;
    end.place = Math.min(end.place, below);
  });
  for (const { curve, place } of ends) {
    const text = draw("text", { x: digits(right + 9), y: digits(place), dy: "0.34em", class: curve.kind }, curve.label);
    group.append(text);
  }
  return group;
}
