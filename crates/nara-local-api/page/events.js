// The live event list.

import { byId, card, empty, make, say, show } from "./dom.js";
import { actorOf, clockOf, dateOf, dayOf, fingerprint, machineTime, many, sentence, targetOf } from "./words.js";

/** The most events that are kept and shown. */
const KEPT = 500;
const SHOWN = 200;

const PROOF = {
  verified: ["good", "verified"],
  "unknown-key": ["warn", "key not known"],
  unsigned: ["warn", "not signed"],
};

const kept = [];
let fresh = new Set();
let jump = () => {};
let keyOfNara = () => undefined;
let paused = false;
let list;
let counter;
let pause;
let services;
const filter = { text: "", service: "", proof: "" };

const millis = (event) => event.ts / 1e6;

const keyOf = ({ event }) => event.id || `${event.ts} ${event.emitter}`;

const words = ({ event }) =>
  sentence(event).map((part) => (typeof part === "string" ? part : part.name)).join("").toLowerCase();

const isShown = (item) =>
  (!filter.service || item.event.svc === filter.service) &&
  (!filter.proof || item.trust === filter.proof) &&
  (!filter.text || words(item).includes(filter.text) || (item.event.emitter ?? "").toLowerCase().includes(filter.text));

const entry = (item) => {
  const { event, trust, origin } = item;
  const [kind, word] = PROOF[trust] ?? ["off", trust];
  const said = sentence(event).map((part) =>
    typeof part === "string"
      ? part
      : make("button", { type: "button", class: "name", title: `Show ${part.name} in the mesh`, onclick: () => jump(part.name) }, part.name),
  );
  const details = make("details", {}, make("summary", {}, "Details"));
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    const told = [
      `${dateOf(millis(event))}, by ${event.emitter || "unknown"}`,
      trust === "verified" ? `, verified with the key that is pinned for it, ${fingerprint(keyOfNara(event.emitter))}` : "",
      origin ? `, received from ${origin}` : "",
    ];
    details.append(make("p", { class: "quiet" }, `${told.join("")}.`), make("pre", { tabindex: "0" }, JSON.stringify(event, null, 2)));
  });
  return make(
    "li",
    { class: fresh.has(keyOf(item)) ? "new" : undefined },
    make("time", { datetime: machineTime(millis(event)), title: dateOf(millis(event)) }, clockOf(millis(event))),
    make("div", { class: "said" }, make("span", { class: "chip" }, event.svc), " ", said),
    make("div", { class: "proof" }, make("span", { class: `mark ${kind}` }, word), origin ? make("span", { class: "small" }, `, from ${origin}`) : null),
    details,
  );
};

const days = (items) => {
  const parts = [];
  let before;
  for (const item of items) {
    const day = dayOf(millis(item.event));
    if (day !== before) parts.push(make("h3", { class: "day" }, day), make("ol", { class: "timeline" }));
    before = day;
    parts.at(-1).append(entry(item));
  }
  return parts;
};

let scheduled = false;
const renderSoon = () => {
  if (scheduled || paused) return;
  scheduled = true;
  requestAnimationFrame(() => { scheduled = false; render(); });
};

const render = () => {
  if (!list) return;
  const open = list.querySelector("details[open]");
  // The list must not move while the user reads an open event.
  if (open && !paused) return;
  const found = kept.filter(isShown);
  const newest = found.slice(-SHOWN).reverse();
  counter.textContent =
    found.length === kept.length ? many(kept.length, "event") : `${found.length} of ${many(kept.length, "event")}`;
  const nothing =
    kept.length > 0
      ? empty("No event matches", "Change the filters to see others.")
      : empty("No events yet", "Events of this nara and its peers appear here as they arrive.");
  show(list, ...(newest.length > 0 ? days(newest) : [nothing]));
  fresh = new Set();
  const known = new Set(kept.map(({ event }) => event.svc));
  for (const option of services.options) known.delete(option.value);
  for (const service of [...known].sort()) services.append(make("option", { value: service }, service));
};

/** Shows only events that mention a name. */
export const about = (name) => {
  filter.text = name.toLowerCase();
  byId("event-text").value = name;
  render();
};

const select = (label, id, options, set) => {
  const choices = options.map(([value, text]) => make("option", { value }, text));
  const control = make("select", { id, onchange: (event) => { set(event.target.value); render(); } }, choices);
  return [make("label", { for: id }, label, control), control];
};

/** `jumpTo` shows a nara by its name; `keyOf` returns its key id. */
export const start = (jumpTo, keyOf) => {
  jump = jumpTo;
  keyOfNara = keyOf;
  const text = make("input", {
    id: "event-text",
    type: "search",
    placeholder: "name or words",
    oninput: (event) => { filter.text = event.target.value.toLowerCase(); render(); },
  });
  const [service, control] = select("Service", "event-service", [["", "all"]], (value) => { filter.service = value; });
  services = control;
  const proofs = [["", "all"], ["verified", "verified"], ["unknown-key", "key not known"], ["unsigned", "not signed"]];
  const [proof] = select("Proof", "event-proof", proofs, (value) => { filter.proof = value; });
  pause = make("button", { type: "button", class: "plain", "aria-pressed": "false" }, "Pause");
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Resume" : "Pause";
    if (!paused) render();
  });
  counter = make("p", {}, "");
  list = make("div", { id: "timeline" });
  const filters = make("div", { class: "inside filters" }, make("label", { for: "event-text" }, "Search", text), service, proof, pause);
  byId("events").replaceChildren(card("Events", counter, filters, list));
  render();
};

export const add = (item, isLive) => {
  const key = keyOf(item);
  if (kept.some((known) => keyOf(known) === key)) return;
  kept.push(item);
  kept.sort((one, other) => one.event.ts - other.event.ts);
  if (kept.length > KEPT) kept.shift();
  if (isLive) {
    fresh.add(key);
    say(`New event: ${words(item)}`);
  }
  renderSoon();
};

export const involves = ({ event }, name) => actorOf(event) === name || targetOf(event) === name;
