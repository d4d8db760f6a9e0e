// The health view: samples, services, ledger, refusals, messages, transfers and the doctor.

import { get, send } from "./api.js";
import { byId, card, empty, make, show, table } from "./dom.js";
import { plot } from "./plot.js";
import { asSentence, bytes, dateOf, many, number, span } from "./words.js";

const RESULT = { ok: ["good", "ok"], warning: ["warn", "warning"], failed: ["bad", "failed"], skipped: ["off", "skipped"] };

let checks;
let checking = false;

/** The increase of a total per minute. */
const rate = (samples, figure) =>
  samples.slice(1).map((sample, index) => {
    const [before, now] = [samples[index][figure], sample[figure]];
    const minutes = (sample.at_ms - samples[index].at_ms) / 60_000;
    if (before === null || now === null || minutes <= 0) return null;
    return Math.max(0, now - before) / minutes;
  });

const level = (samples, figure) => samples.map((sample) => sample[figure] ?? null);

const perMinute = (value) => (value === null ? "–" : `${value >= 10 || value === 0 ? Math.round(value) : value.toFixed(1)}/min`);

const plots = ({ samples }) => {
  const first = samples[0]?.at_ms ?? 0;
  const last = samples.at(-1)?.at_ms ?? 0;
  const minutes = span(last - first);
  const one = (values, name) => ({ values, name });
  return make(
    "div",
    { class: "plots" },
    plot("Peers online", [one(level(samples, "online"))], number, minutes),
    plot("Requests answered", [one(rate(samples, "requests"))], perMinute, minutes),
    plot("Requests refused", [one(rate(samples, "refused"))], perMinute, minutes),
    plot("Calls to peers", [one(rate(samples, "calls")), one(rate(samples, "failed_calls"), "failed")], perMinute, minutes),
    plot("Events in the ledger", [one(level(samples, "events"))], number, minutes),
    plot("Size of the ledger", [one(level(samples, "ledger_bytes"))], bytes, minutes),
    plot("Remembered against replay", [one(level(samples, "replay_entries"))], number, minutes),
    plot("Memory", [one(level(samples, "memory_bytes"))], bytes, minutes),
  );
};

const servicesCard = (services) => {
  if (services.length === 0) return null;
  const rows = services.map(({ prefix, backend, requests, last_sender: sender, expires_in_ms: left }) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, prefix),
      make("td", {}, backend),
      make("td", { class: "number" }, number(requests)),
      make("td", {}, sender ?? "–"),
      make("td", {}, left === undefined ? "from the settings" : `in ${span(left)}`),
    ),
  );
  return card("Services", make("p", {}, "local programs that peers can reach"), table("Programs that peers can reach", ["Path", "Program", ["Requests", "number"], "Last sender", "Lease ends"], rows));
};

const ledgerCard = ({ events, bytes: size, services }) => {
  const rows = services.map(({ service, events: count, bytes: each }) =>
    make("tr", {}, make("th", { scope: "row" }, service), make("td", { class: "number" }, number(count)), make("td", { class: "number" }, bytes(each))),
  );
  return card(
    "Ledger",
    make("p", {}, `${many(events, "event")}, ${bytes(size)}`),
    rows.length > 0
      ? table("Events in the ledger, by service", ["Service", ["Events", "number"], ["Size", "number"]], rows)
      : empty("No events yet", "Events of this nara and its peers are stored here."),
  );
};

const refusals = (list) => {
  const rows = list.map(({ reason, count }) =>
    make("tr", {}, make("th", { scope: "row" }, reason.replaceAll("_", " ")), make("td", { class: "number" }, number(count))),
  );
  return card(
    "Refused requests",
    make("p", {}, "by reason, since the nara started"),
    list.length > 0
      ? table("Refused requests by reason", ["Reason", ["Requests", "number"]], rows)
      : empty("Nothing was refused", "Unauthenticated, replayed and rate-limited requests are counted here."),
  );
};

const KINDS = { "direct-message": "message", postcard: "postcard", "runtime-message": "runtime message" };

/** The text of a message, if it has one. */
const textOf = ({ event }) => String(event.social?.reason ?? event.message ?? event.kind ?? "").slice(0, 200);

const waiting = ({ messages, is_durable: isDurable }, refresh) => {
  const rows = messages
    .filter(({ state }) => state === "waiting")
    .map((message) => {
      const { id, peer, kind, attempts, expires_at_ms: expires, problem } = message;
      const back = make("button", { type: "button", class: "plain", "data-focus": `outbox ${id}` }, "Take back", make("span", { class: "unseen" }, ` the message to ${peer}`));
      back.addEventListener("click", async () => {
        back.disabled = true;
        // If it was delivered meanwhile, it is gone too.
        await send("DELETE", `/v1/outbox/${id}`).catch(() => {});
        refresh();
      });
      return make(
        "tr",
        {},
        make("th", { scope: "row" }, peer),
        make("td", {}, KINDS[kind] ?? kind),
        make("td", {}, textOf(message)),
        make("td", {}, dateOf(expires)),
        make("td", {}, `${many(attempts, "attempt")}${problem ? `, last: ${problem.detail}` : ""}`),
        make("td", {}, back),
      );
    });
  return card(
    "Waiting messages",
    make("p", {}, isDurable ? "sent once their recipients are seen" : "sent once their recipients are seen; lost when the nara stops"),
    rows.length > 0
      ? table("Messages that wait for their recipients", ["To", "Kind", "Text", "Expires", "Attempts", "Decision"], rows)
      : empty("No waiting messages", "Messages sent with --later to an unreachable nara wait here."),
  );
};

const transfersCard = (transfers, refresh) => {
  const rows = transfers.map(({ id, kind, peer, begun_at_ms: begun, progress }) => {
    const { received, remaining } = progress;
    const total = remaining === null ? null : received + remaining;
    const bar = make("progress", { "aria-label": `${kind} with ${peer}`, ...(total ? { max: total, value: received } : {}) });
    const cancel = make("button", { type: "button", class: "plain", "data-focus": `transfer ${id}` }, "Cancel", make("span", { class: "unseen" }, ` the ${kind} with ${peer}`));
    cancel.addEventListener("click", async () => {
      cancel.disabled = true;
      // If it ended meanwhile, it is gone too.
      await send("DELETE", `/v1/transfers/${id}`).catch(() => {});
      refresh();
    });
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, peer),
      make("td", {}, kind),
      make("td", {}, dateOf(begun)),
      make("td", { class: "number" }, `${number(received)} of ${total === null ? "?" : number(total)}`),
      make("td", {}, bar),
      make("td", {}, cancel),
    );
  });
  if (rows.length === 0) return null;
  return card("Transfers", make("p", {}, "of events, in progress"), table("Transfers of events", ["Peer", "Kind", "Begun", ["Events", "number"], "Progress", "Decision"], rows));
};

const doctor = (again) => {
  const button = make("button", { type: "button", class: "plain", "data-focus": "doctor", onclick: again, disabled: checking }, checking ? "Checking…" : "Check again");
  const bad = (checks ?? []).filter(({ result }) => result === "failed" || result === "warning").length;
  const summary = checks ? (bad > 0 ? `${many(bad, "check")} need attention` : "all is well") : "";
  // Problems first.
  const order = ["failed", "warning"];
  const rank = ({ result }) => (order.includes(result) ? order.indexOf(result) : order.length);
  const sorted = [...(checks ?? [])].sort((one, other) => rank(one) - rank(other));
  const items = sorted.map((check) => {
    const [kind, word] = RESULT[check.result] ?? ["off", check.result];
    return make(
      "li",
      {},
      make("span", { class: `mark ${kind}` }, word),
      make("strong", {}, check.what),
      make(
        "div",
        {},
        make("p", {}, check.found),
        check.result === "ok" ? null : make("p", { class: "small quiet" }, asSentence(check.why)),
        check.next ? make("p", { class: "small" }, `Next: ${check.next}`) : null,
      ),
    );
  });
  return card(
    "Checks",
    make("div", { class: "actions" }, make("p", {}, summary), button),
    checks ? make("ul", { class: "plain-list checks" }, items) : empty("Checking", "The doctor checks this nara and its network."),
  );
};

export const examine = async (refresh) => {
  if (checking) return;
  checking = true;
  refresh();
  try {
    checks = await get("/v1/doctor");
  } catch (error) {
    checks = [{ what: "doctor", result: "failed", found: error.message, why: "", next: error.hint ?? null }];
  }
  checking = false;
  refresh();
};

export const wasExamined = () => checks !== undefined || checking;

export const render = ({ history, outbox, transfers, services, ledger }, refresh, ask) => {
  if (!history || !outbox) return;
  show(
    byId("health"),
    doctor(() => examine(refresh)),
    transfersCard(transfers, ask),
    waiting(outbox, ask),
    servicesCard(services),
    plots(history),
    ledger ? ledgerCard(ledger) : null,
    refusals(history.refusals),
  );
};
