// Whether all is well.

import { get } from "./api.js";
import { byId, card, empty, make, show, table } from "./dom.js";
import { plot } from "./plot.js";
import { asSentence, bytes, many, number, span } from "./words.js";

const RESULT = { ok: ["good", "ok"], warning: ["warn", "warning"], failed: ["bad", "failed"], skipped: ["off", "skipped"] };

let checks;
let checking = false;

/** How much a total grew in each minute. */
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

const refusals = (list) => {
  const rows = list.map(({ reason, count }) =>
    make("tr", {}, make("th", { scope: "row" }, reason.replaceAll("_", " ")), make("td", { class: "number" }, number(count))),
  );
  return card(
    "Refused requests",
    make("p", {}, "by reason, since the nara started"),
    list.length > 0
      ? table("Refused requests by reason", ["Reason", ["Requests", "number"]], rows)
      : empty("Nothing was refused", "Requests that prove nothing, come twice or come too often are counted here."),
  );
};

const doctor = (again) => {
  const button = make("button", { type: "button", class: "plain", "data-focus": "doctor", onclick: again, disabled: checking }, checking ? "Checking…" : "Check again");
  const bad = (checks ?? []).filter(({ result }) => result === "failed" || result === "warning").length;
  const summary = checks ? (bad > 0 ? `${many(bad, "check")} need a look` : "all is well") : "";
  // What needs a look comes first.
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
    checks ? make("ul", { class: "plain-list checks" }, items) : empty("Checking", "The doctor looks at this nara and its network."),
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

export const render = ({ history }, refresh) => {
  if (!history) return;
  show(byId("health"), doctor(() => examine(refresh)), plots(history), refusals(history.refusals));
};
