// The entry point of the page: its connection and its views.

import * as api from "./api.js";
import { byId, make, say } from "./dom.js";
import * as events from "./events.js";
import * as health from "./health.js";
import * as mesh from "./mesh.js";
import * as trust from "./trust.js";
import { asSentence } from "./words.js";

const VIEWS = ["mesh", "events", "trust", "health"];

/** The pauses between reconnection attempts, in milliseconds; the last one repeats. */
const PAUSES = [250, 500, 1000, 2000, 4000, 8000];

/** The polling interval of data without live updates. */
const LOOK = 5000;
/** The polling interval of the event count, which may be slow the first time. */
const COUNT = 30_000;
/** The ping interval, and the number of peers that are pinged. */
const PING = 30_000;
const PINGED = 32;

const known = { status: null, peers: [], own: null, conflicts: { conflicts: [], warnings: [] }, history: null, outbox: null, transfers: [], services: [], ledger: null };
let view = "mesh";
let cursor = null;

const sleep = (millis) => new Promise((resolve) => { setTimeout(resolve, millis); });

// Connection

const STATES = { opening: "Opening", live: "Live", lost: "Connection lost, trying again", closed: "Closed" };

const setState = (state) => {
  const shown = byId("connection");
  if (shown.dataset.state === state) return;
  shown.dataset.state = state;
  shown.textContent = STATES[state];
};

const shut = (reason) => {
  setState("closed");
  api.forget();
  byId("tabs").hidden = true;
  byId("leave").hidden = true;
  for (const name of VIEWS) byId(name).hidden = true;
  if (reason) byId("closed-reason").textContent = asSentence(reason);
  byId("closed").hidden = false;
};

/** A nara that does not offer services has none. */
const noServices = (error) => {
  if (error.status === 501) return { services: [], lasting: [] };
  throw error;
};

let counted = null;
/** Requests the ledger summary in the background. */
const countSoon = () => {
  if (counted !== null && performance.now() - counted < COUNT) return;
  counted = performance.now();
  api.get("/v1/ledger").then((ledger) => { known.ledger = ledger; render(); }).catch(() => { counted = null; });
};

const refresh = async () => {
  const [status, { peers }, own, conflicts] = await Promise.all([
    api.get("/v1/status"),
    api.get("/v1/peers"),
    api.get("/v1/coordinates"),
    api.get("/v1/conflicts"),
  ]);
  Object.assign(known, { status, peers, own, conflicts });
  if (view === "health") {
    countSoon();
    const [history, outbox, { transfers }, { services, lasting }] = await Promise.all([
      api.get("/v1/history"),
      api.get("/v1/outbox"),
      api.get("/v1/transfers"),
      api.get("/v1/services").catch(noServices),
    ]);
    Object.assign(known, { history, outbox, transfers, services: [...services, ...lasting] });
  }
  render();
};

let refreshing = null;
/** Refreshes soon after a change, once for several changes. */
const refreshSoon = () => {
  refreshing ??= sleep(200).then(refresh).catch(() => {}).finally(() => { refreshing = null; });
};

const take = (name, body) => {
  if (name === "event") {
    events.add(body, cursor?.caughtUp === true);
    cursor = { after: body.cursor, caughtUp: cursor?.caughtUp === true };
  } else if (name === "caught_up") {
    cursor = { after: cursor?.after ?? null, caughtUp: true };
  } else if (name === "problem") {
    throw new api.Problem(body.status, body);
  }
};

const followEvents = async (signal) => {
  const from = cursor?.after ? `after=${encodeURIComponent(cursor.after)}` : "last=300";
  try {
    await api.follow(`/v1/events/live?${from}`, signal, take);
  } catch (error) {
    // The ledger was replaced: the shown events are outdated.
    if (error.status === 410) cursor = null;
    throw error;
  }
};

const pinging = async (signal) => {
  while (!signal.aborted) {
    const called = known.peers.filter((peer) => peer.address && !peer.is_down && peer.verdict !== "untrusted").slice(0, PINGED);
    for (const peer of called) {
      if (signal.aborted) return;
      if (document.visibilityState === "hidden") break;
      try {
        await api.send("POST", api.peerPath(api.reference(peer), "/ping?prove_clock=true&estimate=true&timeout_ms=3000"));
      } catch (error) {
        // The list shows a peer that does not answer as such.
        if (!(error instanceof api.Problem)) throw error;
      }
    }
    if (called.length > 0) refreshSoon();
    await sleep(PING);
  }
};

const looking = async (signal) => {
  while (!signal.aborted) {
    await sleep(LOOK);
    if (document.visibilityState !== "hidden") await refresh();
  }
};

/** Runs until the connection breaks. */
const live = async () => {
  await refresh();
  setState("live");
  const ending = new AbortController();
  const { signal } = ending;
  try {
    const ended = [
      followEvents(signal),
      api.follow("/v1/peer-changes", signal, refreshSoon),
      looking(signal),
    ];
    pinging(signal).catch(() => {});
    await Promise.race(ended);
  } finally {
    ending.abort();
  }
};

const run = async () => {
  let failures = 0;
  let wasLive = false;
  for (;;) {
    try {
      await api.prove();
      if (wasLive) say("Connected again");
      wasLive = true;
      failures = 0;
      await live();
    } catch (error) {
      if (error instanceof api.Closed) return shut(error.message);
      if (error.status === 401) return shut("The session of this page has ended.");
    }
    setState("lost");
    await sleep(PAUSES[Math.min(failures, PAUSES.length - 1)]);
    failures += 1;
  }
};

// Views

const render = () => {
  const { status, conflicts } = known;
  if (!status) return;
  byId("name").textContent = status.name;
  document.title = `${status.name} · nara`;
  byId("identity").textContent = [status.address ?? "no address", status.network ?? "plain network", `version ${status.version}`].join(" · ");
  const count = conflicts.conflicts.length;
  const tab = byId("tab-trust");
  tab.replaceChildren("Trust");
  if (count > 0) {
    tab.append(make("span", { class: "count" }, String(count), make("span", { class: "unseen" }, count === 1 ? " conflict" : " conflicts")));
  }
  if (view === "mesh") mesh.render(known);
  if (view === "trust") trust.render(known, decided);
  if (view === "health") health.render(known, render, decided);
};

const decided = () => refresh().catch(() => {});

const choose = (name, focus) => {
  view = name;
  for (const other of VIEWS) {
    const tab = byId(`tab-${other}`);
    const chosen = other === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    byId(other).hidden = !chosen;
    if (chosen && focus) tab.focus();
  }
  history.replaceState(null, "", `#/${name}`);
  render();
  if (name === "health") {
    if (!health.wasExamined()) health.examine(render);
    refreshSoon();
  }
};

/** Shows a peer in the mesh view. */
const jump = (name) => {
  choose("mesh");
  const row = document.getElementById(mesh.rowId(name));
  if (!row) return say(`${name} is not among the known peers`);
  row.classList.add("found");
  row.scrollIntoView({ block: "center" });
  row.focus({ preventScroll: true });
};

/** The key id of a nara. */
const keyOf = (name) => (known.status?.name === name ? known.status : known.peers.find((peer) => peer.name === name))?.key_id;

const start = async () => {
  for (const name of VIEWS) byId(`tab-${name}`).addEventListener("click", () => choose(name));
  byId("tabs").addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -VIEWS.indexOf(view), End: VIEWS.length - 1 - VIEWS.indexOf(view) };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    choose(VIEWS[(VIEWS.indexOf(view) + step + VIEWS.length) % VIEWS.length], true);
  });
  byId("leave").addEventListener("click", async () => {
    shut("You closed the session.");
    await api.close();
  });
  const hash = location.hash.slice(1);
  // No element has this id, so the browser does not scroll.
  const wanted = VIEWS.find((name) => hash === `/${name}`) ?? "mesh";
  // The token must not remain in the address or the history.
  history.replaceState(null, "", `#/${wanted}`);
  try {
    if (hash.length >= 40) await api.open(hash);
  } catch (error) {
    return shut(error.message);
  }
  if (!api.isOpen()) return shut();
  byId("tabs").hidden = false;
  byId("leave").hidden = false;
  events.start(jump, keyOf);
  choose(wanted);
  await run();
};

start();
