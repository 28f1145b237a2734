// The rows of a run as curves, and the numbers that a chart of them needs. Nothing here draws.
//
// A row is one of metrics.jsonl: {step, split, loss, …}; its split is "train", "val", "val_raw"
// (weights that are not averaged) or "val/NAME" (a watched text).

export class Curves {
  #rows = new Map(); // split -> rows in the order of their steps, one a step

  add(row) {
    if (!this.#rows.has(row.split)) this.#rows.set(row.split, []);
    const rows = this.#rows.get(row.split);
    let place = rows.length;
    while (place > 0 && rows[place - 1].step > row.step) place -= 1;
    const replaced = place > 0 && rows[place - 1].step === row.step;
    rows.splice(replaced ? place - 1 : place, replaced ? 1 : 0, row);
  }

  // Drops the rows of later steps.
  cut(step) {
    for (const [split, rows] of this.#rows) {
      this.#rows.set(split, rows.filter((row) => row.step <= step));
    }
  }

  rows(split) {
    return this.#rows.get(split) ?? [];
  }

  // The names of the watched texts that have rows.
  watched() {
    const splits = [...this.#rows.keys()].filter((split) => split.startsWith("val/"));
    return splits.filter((split) => this.rows(split).length > 0).map((split) => split.slice(4));
  }

  // The validation of lowest loss, the first of equal ones; null without any.
  best() {
    const rows = this.rows("val").filter((row) => Number.isFinite(row.loss));
    return rows.reduce((best, row) => (best === null || row.loss < best.loss ? row : best), null);
  }

  // Every step that has a point in one of the splits, in order.
  steps(splits) {
    const steps = new Set(splits.flatMap((split) => this.rows(split).map((row) => row.step)));
    return [...steps].sort((a, b) => a - b);
  }
}

// The points [{step, value}] of rows from one step to another; a row without the value is a gap,
// {step, value: null}.
export function pointsOf(rows, key, from, to) {
  const within = rows.filter((row) => row.step >= from && row.step <= to);
  return within.map((row) => ({ step: row.step, value: Number.isFinite(row[key]) ? row[key] : null }));
}

// At most `most` points for a curve of many: equal parts of the steps, each with the mean, the
// lowest and the highest value of its points. Few points stay as they are.
export function thinned(points, most) {
  if (points.length <= most) {
    return points.map(({ step, value }) => ({ step, value, low: value, high: value }));
  }
  const first = points[0].step;
  const width = (points.at(-1).step - first) / most;
  const parts = Array.from({ length: most }, () => []);
  for (const point of points) {
    if (point.value !== null) parts[Math.min(most - 1, Math.floor((point.step - first) / width))].push(point);
  }
  const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
  return parts.filter((part) => part.length > 0).map((part) => {
    const values = part.map((point) => point.value);
    return {
      step: mean(part.map((point) => point.step)),
      value: mean(values),
      low: Math.min(...values),
      high: Math.max(...values),
    };
  });
}

// The newest row up to a step; null where there is none.
export function rowAt(rows, step) {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle].step <= step) low = middle + 1;
    else high = middle;
  }
  return low === 0 ? null : rows[low - 1];
}

// The place of the number nearest to a value in a list that rises.
export function nearest(numbers, value) {
  let best = 0;
  for (let place = 1; place < numbers.length; place += 1) {
    if (Math.abs(numbers[place] - value) < Math.abs(numbers[best] - value)) best = place;
  }
  return best;
}

// Round numbers from low to high, about `count` of them: [2, 2.5, 3, …].
export function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((part) => part * power).find((size) => size >= rough * 0.7);
  const found = [];
  for (let place = Math.ceil(low / step - 1e-9); place * step <= high + step * 1e-9; place += 1) {
    found.push(Number((place * step).toPrecision(12)));
  }
  return found;
}

// A duration as train.py writes it: 80 -> "1 min 20 s".
export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 36_000) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return whole < 172_800 ? `${Math.round(whole / 3600)} h` : `${(whole / 86_400).toFixed(1)} days`;
}
