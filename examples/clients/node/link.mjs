import { randomInt, randomUUID } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";

import { encode } from "@msgpack/msgpack";
import amqp from "amqplib";

import { cause, Lost, Problem } from "./problem.mjs";

export const VERSION = 1;
const CLIENTS = "tunemesh.clients";
const EVENTS = "tunemesh.events";
const PATIENCE_MS = 10_000; // for the broker to answer

/** One connection, with a queue of its own that gets everything about one job. */
export class Link {
  #arrived = []; // messages, or an error as the last one
  #wake = () => {};
  #returned = new Set();

  static async open(url, job) {
    const link = new Link();
    link.job = job;
    link.user = decodeURIComponent(new URL(url).username);
    // Users of a tenant are called client.<tenant>.<name>; jobs of nobody in particular have a dash.
    link.tenant = /^client\.([^.]+)\.[^.]+$/.exec(link.user)?.[1] ?? "-";
    const options = { timeout: PATIENCE_MS, clientProperties: { connection_name: `publish-request ${job}` } };
    link.connection = await amqp.connect(url, options);
    link.connection.on("error", (error) => link.#lose(error));
    link.connection.on("close", () => link.#lose(new Error("the broker has closed it")));
    try {
      await within(link.#prepare(), "the broker does not answer");
    } catch (error) {
      await link.close();
      throw error;
    }
    return link;
  }

  /** Declare, bind and listen, before anything is published: earlier events would be lost. */
  async #prepare() {
    this.channel = await this.connection.createConfirmChannel();
    this.channel.on("error", (error) => this.#lose(error));
    this.channel.on("close", () => this.#lose(new Error("the broker has closed the channel")));
    // A message that found no queue comes back before it is confirmed.
    this.channel.on("return", (message) => this.#returned.add(message.properties.messageId));
    // Exclusive: it is gone with the connection. So every connection declares one, and binds it.
    // A user may declare no others than these 4,096.
    this.queue = `${this.user}.${randomInt(4096).toString(16).padStart(3, "0")}`;
    await this.channel.assertQueue(this.queue, { exclusive: true, durable: false });
    await this.channel.bindQueue(this.queue, EVENTS, `job.${this.tenant}.${this.job}.*`);
    const take = (message) =>
      message === null ? this.#lose(new Error("the queue was deleted")) : this.#put(message);
    await this.channel.consume(this.queue, take, { noAck: true });
  }

  /** Publish, and wait until the broker has taken responsibility. */
  async publish(message, correlationId, expiresMs) {
    const messageId = `${this.job}/${message.type}/${randomUUID()}`;
    const confirmed = new Promise((resolve, reject) => {
      const options = {
        mandatory: true,
        persistent: expiresMs === undefined,
        contentType: "application/msgpack",
        type: message.type,
        messageId,
        correlationId,
        replyTo: this.queue,
        userId: this.user, // the broker refuses any other
        expiration: expiresMs,
        headers: { version: VERSION, job: this.job, "sent-at-ms": Date.now() },
      };
      const done = (error) => (error ? reject(new Lost(cause(error))) : resolve());
      try {
        const key = `${message.type}.${this.tenant}`;
        this.channel.publish(CLIENTS, key, Buffer.from(encode(message)), options, done);
      } catch (error) {
        reject(new Lost(cause(error)));
      }
    });
    await within(confirmed, "the broker does not confirm");
    if (this.#returned.delete(messageId)) {
      throw new Problem(2, "this broker is not set up for Tunemesh: no queue takes the message");
    }
  }

  /** The next message, or null after `limitMs` without one. */
  async next(limitMs) {
    if (this.#arrived.length === 0) {
      let timer;
      await new Promise((resolve) => {
        this.#wake = resolve;
        timer = setTimeout(resolve, limitMs);
      });
      clearTimeout(timer);
    }
    const first = this.#arrived[0];
    if (first instanceof Lost) throw first; // and again, to whoever asks again
    return this.#arrived.shift() ?? null;
  }

  /** Let whoever waits for a message look at what has changed. */
  interrupt() {
    this.#wake();
  }

  async close() {
    this.connection.removeAllListeners("close");
    await within(this.connection.close(), "").catch(() => {});
  }

  #put(arrived) {
    this.#arrived.push(arrived);
    this.#wake();
  }

  #lose(error) {
    this.#put(new Lost(cause(error)));
  }
}

/** What `promise` gives, or Lost after some seconds. */
async function within(promise, text) {
  const stop = new AbortController();
  const late = pause(PATIENCE_MS, undefined, { signal: stop.signal }).then(() => {
    throw new Lost(text);
  });
  late.catch(() => {});
  try {
    return await Promise.race([promise, late]);
  } finally {
    stop.abort();
  }
}

/** Whether the broker has said no: it will say so again. */
export function isRefusal(error) {
  return error?.code === 403 || /ACCESS.REFUSED|NOT.ALLOWED/i.test(String(error?.message));
}
