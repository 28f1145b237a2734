// The tree of versions: pure functions; a tree is never changed, each change is a new tree.
//
// tree = {nodes: [node], shown, past: [id], future: [id]}
// node = {id, parent, at, tokens}: the version `id` is the first `at` tokens of the version
// `parent`, and then `tokens`. A prompt is a version without a parent, at 0. `past` and `future`
// are the versions shown before this one and undone after it, the nearest last.

export const EMPTY = Object.freeze({ nodes: [], shown: null, past: [], future: [] });

// A new prompt, which is shown.
export function plant(tree, tokens) {
  return added(tree, { parent: null, at: 0, tokens });
}

// A new version, which is shown: the first `at` tokens of the version `from`, then `tokens`.
export function branch(tree, at, tokens, from = tree.shown) {
  let parent = tree.nodes[from];
  // The version that holds the token before the place, so that all that part there are siblings.
  while (parent.parent !== null && at <= parent.at) parent = tree.nodes[parent.parent];
  return added(tree, { parent: parent.id, at, tokens });
}

function added(tree, node) {
  const id = tree.nodes.length;
  const past = tree.shown === null ? [] : [...tree.past, tree.shown];
  return { nodes: [...tree.nodes, { id, ...node }], shown: id, past, future: [] };
}

// The version `id` with more tokens at its end.
export function extend(tree, id, tokens) {
  const nodes = [...tree.nodes];
  nodes[id] = { ...nodes[id], tokens: [...nodes[id].tokens, ...tokens] };
  return { ...tree, nodes };
}

// Other tokens for the same ids of the version `id`: as many, with more known about them.
export function annotate(tree, id, tokens) {
  const nodes = [...tree.nodes];
  nodes[id] = { ...nodes[id], tokens };
  return { ...tree, nodes };
}

// All tokens of a version.
export function tokensOf(tree, id = tree.shown) {
  const parts = [];
  let until = Infinity;
  for (let node = tree.nodes[id] ?? null; node !== null; node = tree.nodes[node.parent] ?? null) {
    parts.unshift(node.tokens.slice(0, Math.max(0, until - node.at)));
    until = Math.min(until, node.at);
  }
  return parts.flat();
}

// The prompt that a version continues: a node.
export function promptOf(tree, id = tree.shown) {
  let node = tree.nodes[id];
  while (node.parent !== null) node = tree.nodes[node.parent];
  return node;
}

// Shows another version.
export function show(tree, id) {
  if (id === tree.shown) return tree;
  return { ...tree, shown: id, past: [...tree.past, tree.shown], future: [] };
}

// Shows the version that was shown before; the same tree where there is none.
export function undo(tree) {
  if (tree.past.length === 0) return tree;
  return { ...tree, shown: tree.past.at(-1), past: tree.past.slice(0, -1), future: [...tree.future, tree.shown] };
}

// Shows the version that was undone last.
export function redo(tree) {
  if (tree.future.length === 0) return tree;
  return { ...tree, shown: tree.future.at(-1), future: tree.future.slice(0, -1), past: [...tree.past, tree.shown] };
}

// Where the version shown parts from others: [{at, versions: [id], here}], by place. `here` is the
// index in `versions` of the one that the version shown follows, -1 where it ends at this place and
// others go on. The oldest comes first.
export function forks(tree) {
  if (tree.shown === null) return [];
  // The versions that the one shown is made of, and where each is left for the next.
  const line = [];
  let end = Infinity;
  for (let node = tree.nodes[tree.shown]; node; node = tree.nodes[node.parent] ?? null) {
    line.unshift({ node, end: Math.min(end, node.at + node.tokens.length) });
    end = node.at;
  }
  const found = [];
  line.forEach(({ node, end }, place) => {
    const next = line[place + 1]?.node ?? null;
    const places = new Map();
    for (const child of tree.nodes) {
      if (child.parent !== node.id || child.tokens.length === 0 || child.at > end) continue;
      places.set(child.at, [...(places.get(child.at) ?? []), child.id]);
    }
    for (const [at, children] of places) {
      const goesOn = at < node.at + node.tokens.length; // the version itself is one more way on
      const versions = goesOn ? [node.id, ...children] : children;
      const here = versions.indexOf(next !== null && next.at === at ? next.id : node.id);
      if (versions.length > 1 || here < 0) found.push({ at, versions, here });
    }
  });
  return found.sort((a, b) => a.at - b.at);
}
