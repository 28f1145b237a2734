// The attention pattern on a canvas: a row for each token that reads, a column for each that it
// attends to.

const LARGEST_CELL = 36; // CSS pixels: a text of five tokens is not blown up to the whole width
const LABELLED_CELL = 15; // CSS pixels: from here on a row has room for the text of its token
const LONGEST_LABEL = 10; // characters
const GAP = 8; // CSS pixels between a label and the pattern
const LINE = 2; // CSS pixels: the outlines lie around the cells that they mark
const FAINTEST = 0.05; // opacity of a weight of 0: it shows where weights can be

// How strongly a weight is drawn, 0 to 1. Most weights of a long row are near 0, where the square
// root still tells them apart.
export const strength = (weight) => Math.sqrt(weight);

// onPoint([row, column]) follows the pointer and the arrow keys; onPoint(null): the pointer has left.
// onSelect(row) is called by a click and by Enter.
export class Pattern {
  #image = null; // the weights, painted once
  #point = null; // [row, column] under the pointer or the keys

  constructor(canvas, onPoint, onSelect) {
    Object.assign(this, { canvas, onPoint, onSelect, weights: [], labels: [], row: null });
    canvas.addEventListener("pointermove", (event) => this.#move(this.#cellAt(event)));
    canvas.addEventListener("pointerleave", () => this.#move(null));
    canvas.addEventListener("click", (event) => {
      const cell = this.#cellAt(event);
      if (cell) this.onSelect(cell[0]);
    });
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  // weights[t]: the t + 1 weights of row t; labels[t]: the text of token t; width: CSS pixels.
  show(weights, labels, row, width) {
    Object.assign(this, { weights, row, labels: labels.map(shortened) });
    this.#point = null;
    this.resize(width);
  }

  // Marks another row.
  mark(row) {
    this.row = row;
    this.#draw();
  }

  // Lays the pattern out in `width` CSS pixels, in the colours of this moment.
  resize(width) {
    const count = this.weights.length;
    if (count === 0 || width === 0) return; // nothing to show, or not seen
    this.dots = window.devicePixelRatio || 1;
    const gutter = this.#widestLabel() + GAP;
    this.gutter = (width - gutter) / count >= LABELLED_CELL ? gutter : LINE;
    let cell = Math.min(LARGEST_CELL, (width - this.gutter - LINE) / count);
    // Whole dots, so that all cells are alike, where rounding costs little of the width.
    if (cell * this.dots >= 8) cell = Math.floor(cell * this.dots) / this.dots;
    this.cell = cell;
    const side = cell * count;
    const whole = this.gutter + side + LINE;
    this.canvas.width = Math.round(whole * this.dots);
    this.canvas.height = this.canvas.width;
    this.canvas.style.setProperty("width", `${whole}px`);
    this.canvas.style.setProperty("height", `${whole}px`);
    this.#image = painted(this.weights, Math.round(side * this.dots), this.#rgb("--accent"));
    this.#draw();
  }

  #draw() {
    if (this.#image === null) return;
    const context = this.canvas.getContext("2d");
    const corner = Math.round(this.gutter * this.dots);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.drawImage(this.#image, corner, corner);
    context.setTransform(this.dots, 0, 0, this.dots, corner, corner);
    if (this.gutter > LINE) this.#label(context);
    const outline = (row, column, columns, colour) => {
      context.strokeStyle = this.#css(colour);
      context.lineWidth = LINE;
      const [x, y] = [column * this.cell - LINE / 2, row * this.cell - LINE / 2];
      context.strokeRect(x, y, columns * this.cell + LINE, this.cell + LINE);
    };
    if (this.row !== null) outline(this.row, 0, this.row + 1, "--ink");
    if (this.#point !== null) outline(...this.#point, 1, "--mark");
  }

  #widestLabel() {
    const context = this.canvas.getContext("2d");
    context.font = this.#font();
    return Math.ceil(Math.max(...this.labels.map((label) => context.measureText(label).width)));
  }

  #label(context) {
    context.fillStyle = this.#css("--dim");
    context.font = this.#font();
    context.textBaseline = "middle";
    this.labels.forEach((label, place) => {
      const middle = (place + 0.5) * this.cell;
      context.textAlign = "right";
      context.fillText(label, -GAP, middle);
      context.save();
      context.translate(middle, -GAP);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(label, 0, 0);
      context.restore();
    });
  }

  #font() {
    return `12px ${getComputedStyle(this.canvas).fontFamily}`;
  }

  #cellAt(event) {
    const place = (offset) => Math.floor((offset - this.gutter) / this.cell);
    const [row, column] = [place(event.offsetY), place(event.offsetX)];
    return row < this.weights.length && column >= 0 && column <= row ? [row, column] : null;
  }

  #move(cell) {
    this.#point = cell;
    this.#draw();
    this.onPoint(cell);
  }

  #key(event) {
    const last = this.weights.length - 1;
    const [row, column] = this.#point ?? [this.row ?? last, 0];
    const steps = {
      ArrowUp: [row - 1, column],
      ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1],
      PageUp: [row - 10, column],
      PageDown: [row + 10, column],
      Home: [row, 0],
      End: [row, row],
    };
    const selects = event.key === "Enter" || event.key === " ";
    if (last < 0 || !(selects || event.key in steps)) return;
    event.preventDefault();
    if (selects) return this.onSelect(row);
    const to = Math.min(Math.max(steps[event.key][0], 0), last);
    this.#move([to, Math.min(Math.max(steps[event.key][1], 0), to)]);
  }

  #css(name) {
    return getComputedStyle(this.canvas).getPropertyValue(name).trim();
  }

  // A colour of the style sheet as [red, green, blue], 0 to 255.
  #rgb(name) {
    const context = document.createElement("canvas").getContext("2d");
    context.fillStyle = this.#css(name);
    context.fillRect(0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data;
  }
}

function shortened(label) {
  const characters = [...label];
  if (characters.length <= LONGEST_LABEL) return label;
  return `${characters.slice(0, LONGEST_LABEL - 1).join("")}…`;
}

// The weights as a canvas of size x size dots: opacity by weight, nothing above the diagonal. A dot
// that covers several weights shows the largest, so that no weight is lost in a long text.
function painted(weights, size, [red, green, blue]) {
  const covered = Array.from({ length: size }, (_, dot) => {
    const first = Math.floor((dot * weights.length) / size);
    return [first, Math.max(first + 1, Math.floor(((dot + 1) * weights.length) / size))];
  });
  const image = new ImageData(size, size);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const weight = largest(weights, covered[y], covered[x]);
      if (weight === null) continue;
      const start = 4 * (y * size + x);
      image.data[start] = red;
      image.data[start + 1] = green;
      image.data[start + 2] = blue;
      image.data[start + 3] = 255 * (FAINTEST + (1 - FAINTEST) * strength(weight));
    }
  }
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// The largest weight in a range of rows and columns, each [first, after the last]; null where the
// range lies in the future of all its rows.
function largest(weights, [firstRow, afterRow], [firstColumn, afterColumn]) {
  let found = null;
  for (let row = firstRow; row < afterRow; row++)
    for (let column = firstColumn; column < Math.min(afterColumn, row + 1); column++)
      if (found === null || weights[row][column] > found) found = weights[row][column];
  return found;
}
