// Have a model tuned by a running mesh, and fetch it: `amqplib` and `@msgpack/msgpack` are all that it needs.
//
//     npm ci
//     node publish-request.mjs model.onnx --trials 256 --artifacts /srv/tunemesh/artifacts
//
// Exit codes: 0 the tuned model was written, 1 the job did not give one, 2 bad usage, or the broker cannot be
// used, 130 Ctrl-C has cancelled the job.

import { randomUUID } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { basename, extname } from "node:path";
import { parseArgs } from "node:util";

import { Job } from "./job.mjs";
import { VERSION } from "./link.mjs";
import { cause, printable, Problem } from "./problem.mjs";
import { fromBlob, ownStore, toBlob } from "./store.mjs";

const USAGE = `usage: node publish-request.mjs MODEL [options]

  MODEL              an ONNX file; for --engine mock its YAML text
  --broker URL       amqp:// or amqps://user:password@host/vhost ($TUNEMESH_BROKER_URL)
  --target TARGET    as a device of the mesh serves it (native)
  --trials N         budget (256)
  --engine NAME      as the mesh serves it (metaschedule)
  --artifacts DIR    the folder of the artifact store ($TUNEMESH_ARTIFACTS)
  --out FILE         the tuned model (model.so)
  --timeout SECONDS  to wait at most (3600)
  --help`;

function options() {
  const text = (value) => ({ type: "string", default: value });
  let parsed;
  try {
    parsed = parseArgs({
      allowPositionals: true,
      options: {
        broker: text(process.env.TUNEMESH_BROKER_URL),
        target: text("native"),
        trials: text("256"),
        engine: text("metaschedule"),
        artifacts: text(process.env.TUNEMESH_ARTIFACTS),
        out: text("model.so"),
        timeout: text("3600"),
        help: { type: "boolean" },
      },
    });
  } catch (error) {
    throw new Problem(2, error.message);
  }
  const { values, positionals } = parsed;
  if (values.help) return null;
  if (positionals.length !== 1) throw new Problem(2, "give one model; --help tells more");
  if (!values.broker) throw new Problem(2, "give --broker, or set TUNEMESH_BROKER_URL");
  if (!/^amqps?:\/\/[^/]+/.test(values.broker) || !URL.canParse(values.broker)) {
    throw new Problem(2, "--broker is no URL like amqp://user:password@host:5672/tunemesh");
  }
  if (values.artifacts?.includes(":/")) throw new Problem(2, "--artifacts: this example knows folders only");
  for (const name of ["trials", "timeout"]) {
    if (!/^[1-9][0-9]{0,6}$/.test(values[name])) {
      throw new Problem(2, `--${name} must be a number of at least 1`);
    }
    values[name] = Number(values[name]);
  }
  return { ...values, model: positionals[0] };
}

async function run(chosen) {
  const data = await readFile(chosen.model).catch((error) => {
    throw new Problem(2, `cannot read ${chosen.model}: ${cause(error)}`);
  });
  const stem = basename(chosen.model, extname(chosen.model)).replace(/[^A-Za-z0-9]+/g, "-");
  const store = ownStore(chosen.artifacts, chosen.broker);
  const request = {
    type: "request",
    version: VERSION,
    job: `${stem.replace(/^-|-$/g, "").slice(0, 40) || "model"}-${randomUUID().slice(0, 8)}`,
    model: await toBlob(data, store),
    target: chosen.target,
    level: { trials: chosen.trials },
    engines: [chosen.engine],
    name: basename(chosen.model).slice(0, 200),
  };
  const job = new Job(chosen.broker, request, chosen.timeout);
  process.on("SIGINT", () => {
    if (process.exitCode === 130) process.exit(130); // the second time: at once
    process.exitCode = 130;
    console.error(`${job.name}: cancelling`);
    job.cancel();
  });
  let final;
  try {
    final = await job.finish();
  } finally {
    await job.close();
  }
  if (final.kind !== "done") {
    const code = final.kind === "cancelled" && process.exitCode === 130 ? 130 : 1;
    throw new Problem(code, `job ${job.name} ${final.kind}: ${final.text || "no reason given"}`);
  }
  const tuned = await fromBlob(final.assembled?.tuned ?? {}, store);
  await writeFile(chosen.out, tuned).catch((error) => {
    throw new Problem(1, `cannot write ${chosen.out}: ${cause(error)}`);
  });
  console.log(`${job.name}: wrote ${chosen.out} (${tuned.length} bytes)`);
  process.exitCode = 0;
}

try {
  const chosen = options();
  if (chosen === null) console.log(USAGE);
  else await run(chosen);
} catch (error) {
  if (!(error instanceof Problem)) throw error;
  console.error(`error: ${printable(error.message)}`);
  process.exitCode = error.code;
}
