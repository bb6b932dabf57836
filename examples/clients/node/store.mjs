// The artifact store: a folder in which a blob lies under its SHA-256.

import { createHash, randomUUID } from "node:crypto";
import { mkdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

import { cause, Problem } from "./problem.mjs";

const INLINE_LIMIT = 65_536; // bytes up to which a model travels inside the request
const LATE_FILE_MS = [0, 100, 400, 1_500]; // a network file system shows a new file up to some seconds late

function sha256Of(data) {
  return createHash("sha256").update(data).digest("hex");
}

/** The part of the store that belongs to the tenant of the user who logs in with a broker's URL. */
export function ownStore(store, broker) {
  const user = URL.canParse(broker) ? decodeURIComponent(new URL(broker).username) : "";
  const tenant = /^client\.([^.]+)\.[^.]+$/.exec(user)?.[1];
  return store && tenant ? join(store, "tenants", tenant) : store;
}

/** Inline while small, else written into the store: whole, under another name, then renamed. */
export async function toBlob(data, store) {
  const blob = { sha256: sha256Of(data), size: data.length };
  if (data.length <= INLINE_LIMIT) return { ...blob, data };
  if (!store) {
    throw new Problem(2, `a model of ${data.length} bytes needs the artifact store: give --artifacts`);
  }
  const folder = join(store, blob.sha256.slice(0, 2));
  const partial = join(folder, `${blob.sha256}.${randomUUID()}.partial`);
  try {
    // With the rights that the umask leaves: workers have to read it.
    await mkdir(folder, { recursive: true });
    await writeFile(partial, data);
    await rename(partial, join(folder, blob.sha256));
  } catch (error) {
    await rm(partial, { force: true }).catch(() => {});
    throw new Problem(2, `cannot write to ${store}: ${cause(error)}`);
  }
  return blob;
}

/** The bytes, checked. */
export async function fromBlob(blob, store) {
  if (!/^[0-9a-f]{64}$/.test(blob.sha256)) throw new Problem(1, "the mesh names no artifact");
  if (blob.data instanceof Uint8Array) {
    if (!fits(blob, blob.data)) throw new Problem(1, `artifact ${blob.sha256.slice(0, 12)} is damaged`);
    return blob.data;
  }
  if (!store) throw new Problem(1, "the result lies in the artifact store: give --artifacts");
  const path = join(store, blob.sha256.slice(0, 2), blob.sha256);
  let why;
  for (const wait of LATE_FILE_MS) {
    await pause(wait);
    try {
      // Its size first: nobody has to read what is too large anyway.
      if ((await stat(path)).size === blob.size) {
        const data = await readFile(path);
        if (fits(blob, data)) return data;
      }
      why = `artifact ${blob.sha256.slice(0, 12)} in ${store} is damaged`;
    } catch (error) {
      why = `cannot read the result from ${store}: ${cause(error)}`;
    }
  }
  throw new Problem(1, why);
}

function fits(blob, data) {
  return data.length === blob.size && sha256Of(data) === blob.sha256;
}
