// What checks.py is to the Python programs: one line of JSON per check on standard output.
import { readFileSync } from "node:fs";

export const { MODEL, EMBEDDER, VECTOR, QUESTION, EXPECTED, PICTURE } = process.env;
export const V1 = `${process.env.VLIBRARY_URL}/v1`;
export const UNSTEERED = `${MODEL}:off`;
export const NAME = VECTOR.split("@")[0];
// The header that names the applied vectors.
export const APPLIED = "x-vlibrary-vectors";
export const UNKNOWN = "digit-code@nowhere";
export const IMAGE = readFileSync(PICTURE);
export const DATA_URL = `data:image/png;base64,${IMAGE.toString("base64")}`;

export function assert(condition, message) {
  if (!condition) throw new Error(message);
}

export function expect(given) {
  assert(given?.trim() === EXPECTED, `answered '${given}', expected '${EXPECTED}'`);
}

export class NotSupported extends Error {}

export async function run(checks) {
  for (const [check, body] of Object.entries(checks)) {
    let result = "pass";
    let note = "";
    try {
      await body();
    } catch (error) {
      result = error instanceof NotSupported ? "unsupported" : "fail";
      note = error instanceof NotSupported ? error.message : `${error.name}: ${error.message}`.slice(0, 500);
    }
    console.log(JSON.stringify({ check, result, note }));
  }
}
