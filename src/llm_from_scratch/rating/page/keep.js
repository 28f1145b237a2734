// What this browser keeps until the server has it: answers that were not confirmed yet, and drafts
// of those that are not finished. Tabs of one browser share it.
//
//   unsent(task) -> {task, value, comment, seconds, key} or null; hold(entry); confirmed(entry)
//   draft(task)  -> {value, comment, seconds} or null; note(task, draft); forget(task)

const memory = new Map(); // where the browser keeps nothing

function read(name) {
  try {
    return JSON.parse(localStorage.getItem(name) ?? "null");
  } catch {
    return memory.get(name) ?? null;
  }
}

function write(name, value) {
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, JSON.stringify(value));
  } catch {
    memory.set(name, value);
  }
}

export const unsent = (task) => read(`room unsent ${task}`);
export const hold = (entry) => write(`room unsent ${entry.task}`, entry);
export const draft = (task) => read(`room draft ${task}`);
export const note = (task, value) => write(`room draft ${task}`, value);
export const forget = (task) => write(`room draft ${task}`, null);

// Another tab may have put a newer answer in its place.
export function confirmed(entry) {
  if (unsent(entry.task)?.key === entry.key) write(`room unsent ${entry.task}`, null);
}

// A key of a request; crypto.randomUUID is there on safe connections alone.
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
