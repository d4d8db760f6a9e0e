// The mesh view: presence and connections of peers.

import { byId, card, empty, make, show, table } from "./dom.js";
import { map, placeOf } from "./map.js";
import { ago, duration, many, number, offset, span } from "./words.js";

const PRESENCE = {
  ONLINE: ["good", "online"],
  OFFLINE: ["off", "said goodbye"],
  MISSING: ["warn", "missing"],
  UNKNOWN: ["off", "not seen yet"],
};

const tile = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));

export const rowId = (label) => `peer-${label}`;

const presence = (peer) => {
  if (peer.verdict === "untrusted") return ["bad", "banned"];
  if (peer.is_down) return ["warn", "down, not called"];
  return PRESENCE[peer.presence] ?? ["off", peer.presence.toLowerCase()];
};

const protection = (peer) => {
  const proven = [];
  if (peer.tls) proven.push(peer.raw_public_key ? "TLS, raw key" : "TLS");
  if (peer.v2) proven.push("v2");
  return proven.join(" · ") || (peer.public_key ? "v1" : "–");
};

const row = (peer, link, reads) => {
  const [kind, word] = presence(peer);
  const skewed = Math.abs(peer.clock_offset_ns ?? 0) > 5e9;
  return make(
    "tr",
    { id: rowId(peer.label), tabindex: "-1", "data-focus": rowId(peer.label) },
    make("th", { scope: "row" }, peer.label, make("span", { class: "small quiet" }, peer.address ?? "no address")),
    make("td", {}, make("span", { class: `mark ${kind}` }, word), make("span", { class: "small" }, peer.last_alive_ms === null ? "" : ago(peer.last_alive_ms))),
    make("td", { class: "number" }, duration(peer.rtt_us)),
    make("td", { class: "number quiet" }, duration(peer.estimated_rtt_us)),
    make("td", { class: "nowrap" }, protection(peer)),
    make("td", { class: "number" }, skewed ? make("span", { class: "mark warn" }, offset(peer.clock_offset_ns)) : offset(peer.clock_offset_ns, peer.clock_uncertainty_ns)),
    make("td", {}, peer.path ?? "–", peer.host_name ? make("span", { class: "small" }, peer.host_name) : null),
    make("td", {}, link ?? (reads ? null : "–"), reads ? make("span", { class: "small" }, "reads our stream") : null),
  );
};

const legend = () =>
  make(
    "p",
    { class: "legend" },
    make("span", { class: "mark good" }, "online"),
    make("span", { class: "mark warn" }, "missing"),
    make("span", { class: "mark off" }, "not there"),
  );

export const render = ({ status, peers, own }) => {
  if (!status) return;
  const links = new Map((status.gossip?.links ?? []).map(({ peer, link }) => [peer, link]));
  const readers = new Set(status.stream_readers);
  const online = peers.filter((peer) => peer.presence === "ONLINE").length;
  const shown = peers.map((peer) => row(peer, links.get(peer.label) ?? links.get(peer.name), readers.has(peer.name)));
  const columns = ["Peer", "Presence", ["Round trip", "number"], ["Estimated", "number"], "Protection", ["Clock", "number"], "Path", "Links"];
  const unplaced = peers.filter((peer) => !placeOf(peer, own));
  const guessed = peers.filter((peer) => !peer.coordinates && placeOf(peer, own));
  show(
    byId("mesh"),
    make(
      "dl",
      { class: "tiles" },
      tile("Peers online", `${online} of ${peers.length}`),
      tile("Events in the ledger", number(status.events)),
      tile("Gossip links", status.gossip ? number(links.size) : "off"),
      tile("Readers of our stream", number(readers.size)),
      tile("Running for", span(status.uptime_ms)),
    ),
    card(
      "Peers",
      make("p", {}, `${many(peers.length, "peer")} known`),
      peers.length > 0
        ? table("Peers of this nara", columns, shown)
        : empty("No peers yet", "They come from the peers file, from the tailnet, or by introduction."),
    ),
    card(
      "Map",
      legend(),
      unplaced.length < peers.length
        ? map(own, status.name, peers, links)
        : empty("No map yet", "A peer is placed once its network coordinates are known or its round trip is measured."),
      guessed.length > 0
        ? make("p", { class: "inside small quiet" }, `Only the distance is known of: ${guessed.map((peer) => peer.label).join(", ")}.`)
        : null,
      unplaced.length > 0 && unplaced.length < peers.length
        ? make("p", { class: "inside small quiet" }, `Not placed: ${unplaced.map((peer) => peer.label).join(", ")}.`)
        : null,
    ),
  );
};
