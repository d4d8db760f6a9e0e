// Formats numbers, times and events.

const NONE = "–";

export const duration = (micros) => {
  if (micros === null || micros === undefined) return NONE;
  if (micros < 1000) return `${Math.round(micros)} µs`;
  const millis = micros / 1000;
  if (millis < 10) return `${millis.toFixed(1)} ms`;
  if (millis < 10_000) return `${Math.round(millis)} ms`;
  return span(millis);
};

/** A duration in one or two units. */
export const span = (millis) => {
  const seconds = Math.max(0, Math.round(millis / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} days`;
};

export const ago = (millis) => (millis === null || millis === undefined ? NONE : `${span(millis)} ago`);

export const offset = (nanos, uncertainty) => {
  if (nanos === null || nanos === undefined) return NONE;
  const sign = nanos < 0 ? "−" : "+";
  const size = (value) => duration(Math.abs(value) / 1000);
  return uncertainty ? `${sign}${size(nanos)} ± ${size(uncertainty)}` : `${sign}${size(nanos)}`;
};

export const bytes = (count) => {
  if (count === null || count === undefined) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${unit === 0 || count >= 100 ? Math.round(count) : count.toFixed(1)} ${units[unit]}`;
};

export const number = (count) => (count === null || count === undefined ? NONE : count.toLocaleString("en"));

export const many = (count, thing) => `${number(count)} ${thing}${count === 1 ? "" : "s"}`;

const day = new Intl.DateTimeFormat("en", { weekday: "long", day: "numeric", month: "long", year: "numeric" });
const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const whole = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short", hourCycle: "h23" });

const valid = (millis) => Number.isFinite(millis) && Math.abs(millis) < 8.64e15;
export const dayOf = (millis) => (valid(millis) ? day.format(millis) : "unknown day");
export const clockOf = (millis) => (valid(millis) ? clock.format(millis) : NONE);
export const dateOf = (millis) => (valid(millis) ? whole.format(millis) : NONE);
export const machineTime = (millis) => (valid(millis) ? new Date(millis).toISOString() : undefined);

/** Converts a message of the nara, which begins in lower case without a full stop, to a sentence. */
export const asSentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

/** A fingerprint in groups of four, which are easier to compare. */
export const fingerprint = (key) => (key ? key.match(/.{1,4}/g).join(" ") : NONE);

/** The subject of an event. */
export const actorOf = (event) =>
  event.social?.actor ?? event.ping?.observer ?? event.observation?.observer ?? event.emitter ?? "";
export const targetOf = (event) =>
  event.social?.target ?? event.ping?.target ?? event.observation?.subject ?? event.checkpoint?.subject ?? "";

const SOCIAL = {
  tease: ["teases", ""],
  gossip: ["tells", ""],
  observed: ["observed", ""],
  "observation": ["observed", ""],
};

/** An event as a sentence of texts and `{ name }` parts. */
export const sentence = (event) => {
  const who = (name) => (name ? { name } : "someone");
  const social = event.social;
  if (social) {
    const [verb] = SOCIAL[social.type] ?? [social.type || "says something to"];
    const parts = [who(social.actor), ` ${verb} `, who(social.target)];
    if (social.reason) parts.push(`: “${social.reason}”`);
    return parts;
  }
  if (event.hey_there) return [who(event.hey_there.from ?? event.emitter), " says hello"];
  if (event.chau) return [who(event.chau.from ?? event.emitter), " says goodbye"];
  if (event.seen) return [who(event.seen.observer ?? event.emitter), " has seen ", who(event.seen.subject)];
  if (event.ping) {
    const rtt = Number.isFinite(event.ping.rtt) ? ` in ${duration(event.ping.rtt * 1000)}` : "";
    return [who(event.ping.observer), " reached ", who(event.ping.target), rtt];
  }
  if (event.observation) {
    const { type, observer, subject, is_new } = event.observation;
    return [who(observer), ` noted ${type ? type.replaceAll("_", " ").replaceAll("-", " ") : "something"}`, " of ", who(subject), is_new ? ", who is new" : ""];
  }
  if (event.checkpoint) return [who(event.emitter), " has a checkpoint about ", who(event.checkpoint.subject)];
  const target = targetOf(event);
  return [who(actorOf(event)), ` published ${event.svc || "an event"}`, target ? " about " : "", target ? who(target) : ""];
};
