// The map of the mesh around this nara: peers are placed by their network coordinates, or else at the
// distance of their round trip.

import { draw } from "./dom.js";
import { duration } from "./words.js";

const WIDTH = 1000;
const HEIGHT = 380;
const REACH = 150;

/** Rounds milliseconds up for the outer ring. */
const round = (millis) => {
  const size = 10 ** Math.floor(Math.log10(Math.max(millis, 0.1)));
  return [1, 2, 5, 10].map((factor) => factor * size).find((step) => step >= millis);
};

/** Moves overlapping nodes apart, so that every name is readable. */
const spread = (nodes) => {
  for (let turn = 0; turn < 60; turn += 1) {
    let moved = false;
    nodes.forEach((one, index) => {
      for (const other of nodes.slice(index + 1)) {
        const [dx, dy] = [other.x - one.x, (other.y - one.y) * 2.2];
        const apart = Math.hypot(dx, dy);
        if (apart >= 90) continue;
        moved = true;
        // Nodes at the same point are separated in a direction derived from their index.
        const angle = apart > 0.01 ? Math.atan2(dy, dx) : index * 2.4 + 0.6;
        const push = (90 - apart) / 2;
        const [px, py] = [Math.cos(angle) * push, (Math.sin(angle) * push) / 2.2];
        if (!other.fixed) { other.x += px * (one.fixed ? 2 : 1); other.y += py * (one.fixed ? 2 : 1); }
        if (!one.fixed) { one.x -= px * (other.fixed ? 2 : 1); one.y -= py * (other.fixed ? 2 : 1); }
      }
    });
    if (!moved) return;
  }
};

/** A fixed direction for a name. */
const direction = (name) => [...name].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 3600, 7) * (Math.PI / 1800);

/** The position of a peer relative to this nara, in milliseconds of round trip; undefined if unknown. */
export const placeOf = (peer, own) => {
  if (peer.coordinates && own) return [peer.coordinates.x - own.x, peer.coordinates.y - own.y];
  if (peer.rtt_us === null || peer.rtt_us === undefined) return undefined;
  const [far, angle] = [peer.rtt_us / 1000, direction(peer.label)];
  return [far * Math.cos(angle), far * Math.sin(angle)];
};

export const map = (own, name, peers, linked) => {
  const placed = peers.map((peer) => ({ peer, place: placeOf(peer, own) })).filter(({ place }) => place);
  const outer = round(Math.max(1, ...placed.map(({ place }) => Math.hypot(...place))));
  const scale = REACH / outer;
  const clamp = (value, most) => Math.min(most, Math.max(-most, value));
  const self = { x: WIDTH / 2, y: HEIGHT / 2, fixed: true, name };
  const nodes = placed.map(({ peer, place: [x, y] }) => ({
    peer,
    name: peer.label,
    // A peer stays on the map whatever coordinates it claims. The map is wider than high.
    x: WIDTH / 2 + clamp(x * scale, REACH) * 2.2,
    y: HEIGHT / 2 + clamp(y * scale, REACH),
  }));
  spread([self, ...nodes]);
  for (const node of nodes) {
    node.x = Math.min(WIDTH - 70, Math.max(70, node.x));
    node.y = Math.min(HEIGHT - 30, Math.max(20, node.y));
  }
  const words = nodes.map(({ name, peer }) => `${name} ${duration(peer.rtt_us ?? peer.estimated_rtt_us)}`);
  const svg = draw("svg", {
    id: "map",
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    role: "img",
    "aria-label": `Map of the mesh around ${name}: ${words.join(", ") || "no peer has a known position"}`,
  });
  for (const part of [0.5, 1]) {
    const [rx, ry] = [REACH * 2.2 * part, REACH * part];
    svg.append(draw("ellipse", { class: "ring", cx: self.x, cy: self.y, rx, ry }));
    const label = draw("text", { class: "ring-name", x: self.x + rx + 6, y: self.y + 4 });
    label.textContent = duration(outer * part * 1000);
    svg.append(label);
  }
  for (const { peer, x, y } of nodes) {
    const live = linked.has(peer.label) ? " live" : "";
    svg.append(draw("line", { class: `way${live}`, x1: self.x, y1: self.y, x2: x, y2: y }));
  }
  for (const node of [...nodes, self]) {
    const kind = node.peer ? node.peer.presence.toLowerCase() : "self";
    svg.append(draw("circle", { class: `node ${kind}`, cx: node.x, cy: node.y, r: node.peer ? 8 : 10 }));
    const label = draw("text", { class: "node-name", x: node.x, y: node.y + 25, "text-anchor": "middle" });
    label.textContent = node.name;
    svg.append(label);
    if (node.peer) {
      const distance = draw("text", { class: "node-far", x: node.x, y: node.y + 39, "text-anchor": "middle" });
      distance.textContent = duration(node.peer.rtt_us ?? node.peer.estimated_rtt_us);
      svg.append(distance);
    }
  }
  return svg;
};
