// Replaces the parts of a page that have changed, as they arrive. Parts are HTML that the server has escaped.
"use strict";

const AGAIN = 3000; // milliseconds until the stream is opened anew, where the browser has given up

function part(name) {
  return document.querySelector(`[data-live="${CSS.escape(name)}"]`);
}

// Rows as the server orders them: new ones are made, those that are not named go.
function order(name, keys) {
  const body = document.querySelector(`[data-order="${CSS.escape(name)}"]`);
  if (!body) return;
  const known = new Map([...body.children].map((row) => [row.dataset.live, row]));
  keys.forEach((key, place) => {
    let row = known.get(key);
    known.delete(key);
    if (!row) {
      row = document.createElement(body.dataset.child);
      row.dataset.live = key;
    }
    if (body.children[place] !== row) body.insertBefore(row, body.children[place] || null);
  });
  known.forEach((row) => row.remove());
}

// What a person has opened, scrolled to or is at stays so.
function replace(element, html) {
  const at = document.activeElement;
  const focused = element.contains(at) ? at : null;
  const opened = [...element.querySelectorAll("details")].map((each) => each.open);
  const scrolled = [...element.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
  element.innerHTML = html;
  element.querySelectorAll("details").forEach((each, n) => { if (n < opened.length) each.open = opened[n]; });
  element.querySelectorAll(".scroll").forEach((each, n) => { each.scrollLeft = scrolled[n] || 0; });
  if (focused) {
    const same = [...element.querySelectorAll(focused.tagName)].find((each) =>
      ["href", "data-keep", "aria-label"].every((name) => each.getAttribute(name) === focused.getAttribute(name)));
    if (same) same.focus({ preventScroll: true });
  }
}

function show(parts) {
  for (const [name, value] of Object.entries(parts)) {
    if (name.startsWith("order ")) order(name.slice("order ".length), value);
  }
  for (const [name, value] of Object.entries(parts)) {
    const element = name.startsWith("order ") ? null : part(name);
    if (element) replace(element, value);
  }
  tick();
}

function listen(address) {
  const unheard = document.getElementById("unheard");
  const source = new EventSource(address);
  source.onopen = () => { unheard.hidden = true; };
  source.onmessage = (event) => show(JSON.parse(event.data));
  source.onerror = () => {
    unheard.hidden = false;
    if (source.readyState === EventSource.CLOSED) setTimeout(() => listen(address), AGAIN);
  };
}

// As the server words it.
function duration(seconds) {
  const whole = Math.max(Math.round(seconds), 0);
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
}

function tick() {
  document.querySelectorAll("time[data-since]").forEach((each) => {
    each.textContent = duration(Date.now() / 1000 - Number(each.dataset.since));
  });
}

// What a person is asked whether to do: the latest question alone can be said yes to.
let asked = null;

function ask(button) {
  asked = { job: button.dataset.stop, keep: button.dataset.keep === "true" };
  document.getElementById("question").textContent = button.dataset.ask;
  document.getElementById("sure").showModal();
}

async function answered(yes) {
  const { job, keep } = asked;
  asked = null;
  if (!yes) return;
  const said = document.getElementById("said");
  try {
    const answer = await fetch(`/jobs/${encodeURIComponent(job)}/stop`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ keep }),
      signal: AbortSignal.timeout(60000),
    });
    const told = answer.headers.get("content-type") === "application/json" ? await answer.json() : {};
    said.textContent = answer.ok ? "Asked for. This page shows when it has ended." : `That did not work: ${told.error || answer.status}`;
  } catch (error) {
    said.textContent = `That did not work: ${error.message}`;
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-stop]");
  if (button) ask(button);
});
document.addEventListener("submit", (event) => {
  if (event.target.closest("#sure") && asked) answered(event.submitter.value === "yes");
});
tick();
setInterval(tick, 1000);
if (document.body.dataset.events) listen(document.body.dataset.events);
