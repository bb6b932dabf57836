/** The end, with the exit code and one line for people. */
export class Problem extends Error {
  constructor(code, text) {
    super(text);
    this.code = code;
  }
}

/** The connection is gone, or of no use any more: another one may do. */
export class Lost extends Error {}

/** Texts come from others, and go to a terminal: nothing in them may be obeyed there. */
export function printable(text) {
  return text.replace(/\s+/gu, " ").replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "?");
}

export function cause(error) {
  const inner = error?.errors?.[0] ?? error; // of several addresses that were tried
  return String(inner?.message || inner?.code || inner).replace(/\s+/g, " ").trim();
}
