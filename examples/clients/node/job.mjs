import { setTimeout as pause } from "node:timers/promises";

import { decode } from "@msgpack/msgpack";

import { isRefusal, Link, VERSION } from "./link.mjs";
import { cause, printable, Problem } from "./problem.mjs";

const FINAL = ["done", "failed", "cancelled", "rejected"];
const SILENCE_MS = 5_000; // without news the coordinator is asked: events may be lost
const ASK_AT_MOST = 12; // answers without the job that are believed in the end
const PATIENCE_MS = 10_000; // after Ctrl-C, for the end of the job

/** One request, until its final event. */
export class Job {
  #link;
  #connected = false; // ever
  #published = false;
  #cancelled = false;
  #unknown = 0;
  #silent = 0;
  #giveUpAt;
  #mustCancel = false;

  constructor(url, request, timeoutS) {
    this.url = url;
    this.request = request;
    this.name = request.job;
    this.#giveUpAt = Date.now() + timeoutS * 1000;
    this.timeoutS = timeoutS;
  }

  /** Publish, say what happens, and return the final event. Connects again as often as it takes. */
  async finish() {
    let attempts = 0;
    for (;;) {
      try {
        this.#checkTime();
        this.#link = await Link.open(this.url, this.name);
        this.#connected = true;
        attempts = 0;
        if (this.#published) await this.#ask(); // what was said in the meantime is lost
        else await this.#publish();
        return await this.#untilFinal();
      } catch (error) {
        if (error instanceof Problem) throw error;
        // What is wrong with a first connection hardly mends itself.
        if (!this.#connected || isRefusal(error)) {
          throw new Problem(2, `cannot use the broker: ${cause(error)}`);
        }
        await this.#link.close();
        console.error(`${this.name}: connection lost (${printable(cause(error))}), connecting again`);
        const most = Math.min(5_000, 250 * 2 ** attempts++);
        await pause((most * (1 + Math.random())) / 2); // not with all others at once
      }
    }
  }

  /** Where the connection breaks before the confirm, it is done again: the same request is the same job. */
  async #publish() {
    if (this.#mustCancel) throw new Problem(130, "interrupted before the request was sent");
    await this.#link.publish(this.request, this.name);
    this.#published = true;
    console.log(`${this.name}: published`);
  }

  /** Ctrl-C: the job is cancelled, and its end awaited for some seconds. */
  cancel() {
    this.#mustCancel = true;
    this.#giveUpAt = Math.min(this.#giveUpAt, Date.now() + PATIENCE_MS);
    this.#link?.interrupt();
  }

  async close() {
    await this.#link?.close();
  }

  async #untilFinal() {
    this.#cancelled = false;
    for (;;) {
      if (this.#mustCancel && !this.#cancelled) {
        await this.#link.publish({ type: "cancel", version: VERSION, job: this.name }, this.name);
        this.#cancelled = true;
      }
      this.#checkTime();
      const arrived = await this.#link.next(Math.min(SILENCE_MS, this.#giveUpAt - Date.now()));
      if (arrived === null) {
        if (this.#mustCancel === this.#cancelled) await this.#ask();
        continue;
      }
      for (const event of this.#read(arrived)) {
        console.log(line(this.name, event));
        if (FINAL.includes(event.kind)) return event;
      }
    }
  }

  async #ask() {
    this.#silent += 1;
    const query = { type: "query", version: VERSION, job: this.name };
    await this.#link.publish(query, `${this.name}/${this.#silent}`, 60_000);
  }

  /** The events in a message about this job: one, or none. */
  #read(arrived) {
    let message;
    try {
      message = decode(arrived.content);
    } catch (error) {
      console.error(`${this.name}: skipped a message that cannot be read (${cause(error)})`);
      return [];
    }
    if (message?.version !== VERSION) {
      throw new Problem(1, `the mesh speaks version ${message?.version}, not ${VERSION}`);
    }
    if (message.type === "snapshot") return this.#fromSnapshot(message);
    if (message.type !== "job-event") return [];
    const mine = message.job === this.name;
    const refused = message.kind === "rejected" && arrived.properties.correlationId === this.name;
    return mine || refused ? [message] : [];
  }

  /** A snapshot says what the latest event would have said, also the final one. */
  #fromSnapshot(snapshot) {
    const jobs = Array.isArray(snapshot.jobs) ? snapshot.jobs : [];
    const progress = jobs.find((each) => each?.job === this.name);
    if (progress === undefined) {
      if (snapshot.rejected) return [{ kind: "rejected", text: snapshot.rejected }];
      this.#unknown += 1;
      if (this.#unknown >= ASK_AT_MOST) throw new Problem(1, "the mesh does not know the job any more");
      return [];
    }
    this.#unknown = 0;
    const kind = FINAL.includes(progress.phase) ? progress.phase : "progress";
    const text = progress.error || progress.waiting || "";
    return [{ kind, text, progress, assembled: snapshot.assembled }];
  }

  #checkTime() {
    if (Date.now() < this.#giveUpAt) return;
    if (this.#mustCancel) throw new Problem(130, "interrupted; the job may not have heard of it");
    throw new Problem(1, `nothing final within ${this.timeoutS} s; the job, if accepted, goes on`);
  }
}

function line(job, event) {
  const words = [`${job}: ${event.kind}`];
  if (event.progress) {
    const { phase, trials, budget } = event.progress;
    words.push(`${phase}, ${trials} of ${budget} trials`);
  }
  if (event.text) words.push(event.text);
  return printable(words.join("; "));
}
