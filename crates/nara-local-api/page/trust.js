// The trust view: keys of peers, and decisions about them.

import { peerPath, reference, send } from "./api.js";
import { byId, card, empty, make, show, table } from "./dom.js";
import { asSentence, dateOf, fingerprint, many } from "./words.js";

/** Asks for confirmation, and carries the decision out. */
const confirm = ({ title, text, key, word, kind, act, done }) => {
  const dialog = byId("confirm");
  const failed = make("p", { class: "failed", role: "alert", hidden: true });
  const yes = make("button", { type: "button", class: kind }, word);
  const no = make("button", { type: "button", class: "plain", autofocus: true, onclick: () => dialog.close() }, "Cancel");
  yes.addEventListener("click", async () => {
    yes.disabled = true;
    try {
      await act();
      dialog.close();
      done();
    } catch (error) {
      failed.textContent = [error.message, error.hint].filter(Boolean).map(asSentence).join(" ");
      failed.hidden = false;
      yes.disabled = false;
    }
  });
  dialog.replaceChildren(
    make("h2", { id: "confirm-title" }, title),
    make("p", {}, text),
    ...(key ? [make("code", { class: "fingerprint" }, fingerprint(key))] : []),
    failed,
    make("div", { class: "actions" }, no, yes),
  );
  dialog.showModal();
};

const keyCard = (title, key, how) =>
  make("div", {}, make("h3", {}, title), make("code", { class: "fingerprint" }, fingerprint(key)), make("p", { class: "small quiet" }, how));

/** Asks whether to trust another key of a nara. The nara is identified by its pinned key, whatever its name is. */
const askToTrust = (name, pinned, key, refresh) =>
  confirm({
    title: `Trust another key of ${name}?`,
    text: `Ask the owner of ${name} for the fingerprint, not over the mesh, and compare it. This nara will accept the holder of this key as ${name}.`,
    key,
    word: "Trust this key",
    kind: "danger",
    act: () => send("PUT", peerPath(pinned ?? name, "/trust"), { key, replace: true }),
    done: refresh,
  });

const conflict = (open, refresh) => {
  const { name, pinned_key_id: pinned, pinned_source: source, offered_key_id: offered, offered_by: by } = open.conflict;
  const seen = open.times > 1 ? `${open.times} times, last ${dateOf(open.last_seen_ms)}` : dateOf(open.last_seen_ms);
  const keep = make("button", { type: "button", class: "plain", "data-focus": `keep ${name}` }, "Keep the pinned key");
  keep.addEventListener("click", () =>
    confirm({
      title: `Keep the key of ${name}?`,
      text: "The pinned key stays. Messages with the other key remain refused.",
      key: pinned,
      word: "Keep this key",
      kind: "main",
      act: () => send("PUT", peerPath(pinned, "/trust"), {}),
      done: refresh,
    }),
  );
  const replace = make("button", { type: "button", class: "danger", "data-focus": `replace ${name}` }, "Trust the offered key…");
  replace.addEventListener("click", () => askToTrust(name, pinned, offered, refresh));
  return make(
    "section",
    { class: "card conflict", "aria-label": `Conflict about ${name}` },
    make("header", {}, make("h2", {}, `${name} shows another key`), make("p", {}, `found ${seen}`)),
    make(
      "div",
      { class: "inside" },
      make("p", {}, `Another nara uses the name ${name}, or ${name} has a new soul. The pinned key is unchanged: messages with the other key are refused.`),
      make("div", { class: "keys" }, keyCard("Pinned key", pinned, `learned by ${source}`), keyCard("Offered key", offered, `offered by ${by}`)),
      open.configured
        ? make("p", { class: "small quiet" }, "The pinned key is configured in the peers file. If the owner confirms the new key, change it there and reload.")
        : null,
      make("div", { class: "actions start" }, keep, open.configured ? null : replace),
    ),
  );
};

/** A warning, with the decision to take if it concerns a key. */
const warningItem = (warning, refresh) => {
  const { name, key_id: key, pinned_key_id: pinned, configured } = warning;
  const item = make(
    "li",
    {},
    make("span", { class: "mark warn" }, `${warning.text}.`),
    make("p", { class: "small quiet" }, `${many(warning.times, "time")}, last ${dateOf(warning.last_seen_ms)}`),
  );
  if (!key) return item;
  const trust = make("button", { type: "button", class: "danger", "data-focus": `trust ${name} ${key}`, "aria-label": `Trust another key of ${name}` }, "Trust this key…");
  trust.addEventListener("click", () => askToTrust(name, pinned, key, refresh));
  item.append(
    make("div", { class: "keys" }, pinned ? keyCard("Pinned key", pinned, "") : null, keyCard("Other key", key, "")),
    configured
      ? make("p", { class: "small quiet" }, "The pinned key is configured in the peers file. If the owner confirms the new key, change it there and reload.")
      : make("div", { class: "actions start" }, trust),
  );
  return item;
};

const decision = (peer) => {
  if (peer.verdict === "untrusted") return make("span", { class: "mark bad" }, "banned");
  if (peer.verdict === "trusted") return make("span", { class: "mark good" }, "trusted by you");
  return "–";
};

const actions = (peer, refresh) => {
  const name = peer.name;
  if (!name) return null;
  const banned = peer.verdict === "untrusted";
  const change = make(
    "button",
    { type: "button", class: banned ? "plain" : "danger", "data-focus": `ban ${name}`, "aria-label": banned ? `Lift the ban of ${name}` : `Ban ${name}` },
    banned ? "Lift the ban" : "Ban",
  );
  change.addEventListener("click", () =>
    confirm(
      banned
        ? {
            title: `Trust ${name} again?`,
            text: "Its requests are accepted, and it is called, with this key:",
            key: peer.key_id,
            word: "Lift the ban",
            kind: "main",
            act: () => send("PUT", peerPath(reference(peer), "/trust"), {}),
            done: refresh,
          }
        : {
            title: `Ban ${name}?`,
            text: "Its requests are refused, and it is not called, until you lift the ban. This is its key:",
            key: peer.key_id,
            word: `Ban ${name}`,
            kind: "danger",
            act: () => send("PUT", peerPath(reference(peer), "/ban")),
            done: refresh,
          },
    ),
  );
  return make("div", { class: "actions" }, change);
};

const row = (peer, refresh) =>
  make(
    "tr",
    {},
    make("th", { scope: "row" }, peer.label, peer.id ? make("span", { class: "small quiet" }, peer.id) : null),
    make("td", {}, make("code", { class: "key" }, peer.key_id ?? "no key")),
    make("td", {}, peer.key_source ?? "–", peer.learned_at_ms ? make("span", { class: "small" }, dateOf(peer.learned_at_ms)) : null),
    make("td", { class: "nowrap" }, [peer.v2 ? "v2" : null, peer.tls ? "TLS" : null].filter(Boolean).join(", ") || "–"),
    make("td", { class: "nowrap" }, decision(peer), peer.decided_at_ms ? make("span", { class: "small" }, dateOf(peer.decided_at_ms)) : null),
    make("td", {}, actions(peer, refresh)),
  );

let shown;

export const render = ({ status, peers, conflicts }, refresh) => {
  if (!status) return;
  const relevant = peers.map(({ label, id, key_id, key_source, v2, tls, verdict, decided_at_ms }) => [label, id, key_id, key_source, v2, tls, verdict, decided_at_ms]);
  const now = JSON.stringify([relevant, conflicts]);
  // The view must not change while the user compares keys.
  if (now === shown) return;
  shown = now;
  const { conflicts: open, warnings } = conflicts;
  const rows = peers.map((peer) => row(peer, refresh));
  show(
    byId("trust"),
    ...open.map((one) => conflict(one, refresh)),
    warnings.length > 0
      ? card(
          "Warnings",
          make("p", {}, "since the nara started"),
          make(
            "ul",
            { class: "plain-list" },
            warnings.map((warning) => warningItem(warning, refresh)),
          ),
        )
      : null,
    card(
      "Keys",
      make("p", {}, open.length > 0 ? `${many(open.length, "conflict")} to decide` : "no conflicts"),
      peers.length > 0
        ? table("Keys of peers, and what you decided", ["Peer", "Key", "Learned by", "Proven", "Decision", ["Actions", "number"]], rows)
        : empty("No keys yet", "The key of a peer is pinned when it is first learned, and then never changes without a decision."),
    ),
    card(
      "Your own key",
      make("p", {}, "for others to compare"),
      make("div", { class: "inside" }, make("code", { class: "fingerprint" }, fingerprint(status.key_id)), make("p", { class: "small quiet" }, `${status.name}, ${status.id}`)),
    ),
  );
};
