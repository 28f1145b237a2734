// A conversation: pure functions of its turns.
//
// turn = {user, prompt, answer, finish}: what the reader wrote; the tokens of the whole conversation up
// to the answer, as the model's template writes it; the tokens of the answer; "stop", "length" or null.

import { packed, unpacked } from "./link.js";
import { decode } from "./token.js";

// The messages of /play/write: those of `turns`, and then what the reader says.
export function messages(system, turns, user) {
  const found = system.trim() === "" ? [] : [{ role: "system", content: system }];
  for (const turn of turns) {
    found.push({ role: "user", content: turn.user }, { role: "assistant", content: decode(turn.answer) });
  }
  return [...found, { role: "user", content: user }];
}

const ids = (tokens) => tokens.map((token) => token.id);

// A conversation as a string for a link. Of each prompt stands there only what the turn before does
// not hold already: how many ids are the same, then the rest.
export function saved(system, turns) {
  let before = [];
  const parts = turns.map(({ user, prompt, answer, finish }) => {
    const all = ids(prompt);
    const differs = all.findIndex((id, index) => id !== before[index]);
    const same = differs < 0 ? all.length : differs;
    before = [...all, ...ids(answer)];
    return [user, same, pack(all.slice(same)), pack(ids(answer)), finish];
  });
  return JSON.stringify([system, ...parts]);
}

// The reverse: {system, turns: [{user, prompt: [id], answer: [id], finish}]}. Throws an Error of one
// line for anything else, and for ids from `vocabulary` on.
export function restored(text, vocabulary) {
  const wrong = new Error("The conversation of the link cannot be read.");
  const check = (holds) => {
    if (!holds) throw wrong;
  };
  let before = [];
  let parts;
  try {
    parts = JSON.parse(text);
  } catch {
    throw wrong;
  }
  check(Array.isArray(parts) && typeof parts[0] === "string");
  const turns = parts.slice(1).map((part) => {
    check(Array.isArray(part) && part.length === 5);
    const [user, same, rest, written, finish] = part;
    check([user, rest, written].every((one) => typeof one === "string"));
    check(Number.isInteger(same) && same >= 0 && same <= before.length);
    check([null, "stop", "length"].includes(finish));
    const prompt = [...before.slice(0, same), ...unpack(rest)];
    const answer = unpack(written);
    check(prompt.length > 0);
    before = [...prompt, ...answer];
    check(before.every((id) => id < vocabulary));
    return { user, prompt, answer, finish };
  });
  return { system: parts[0], turns };
}

const pack = (numbers) => (numbers.length === 0 ? "" : packed(numbers));
const unpack = (text) => (text === "" ? [] : unpacked(text));
