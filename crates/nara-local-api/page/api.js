// The client of the local API of the nara that serves this page.

const STORED = "nara-page";
const text = new TextEncoder();

/** A problem reported by the nara. */
export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail ?? `status ${status}`);
    this.status = status;
    this.name = body?.type?.split(":").pop() ?? "problem";
    this.hint = body?.hint;
  }
}

/** The session has ended, or there is none. */
export class Closed extends Error {}

let session = JSON.parse(sessionStorage.getItem(STORED) ?? "null");

const base64 = (bytes) =>
  btoa(String.fromCharCode(...new Uint8Array(bytes))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

const failed = async (response) => {
  let body;
  try { body = await response.json(); } catch { body = undefined; }
  return new Problem(response.status, body);
};

/** Redeems the token of the address, which is valid only once. */
export const open = async (token) => {
  const response = await fetch("/page/session", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ token }),
  });
  if (!response.ok) throw new Closed((await failed(response)).message);
  session = await response.json();
  sessionStorage.setItem(STORED, JSON.stringify(session));
};

export const isOpen = () => session !== null;

export const forget = () => {
  session = null;
  sessionStorage.removeItem(STORED);
};

export const close = async () => {
  const headers = { "x-nara-page": session?.secret ?? "" };
  forget();
  await fetch("/page/session", { method: "DELETE", headers });
};

/** Verifies that the server is still our nara before the secret is sent: while the nara was stopped, another program may have taken its port. */
export const prove = async () => {
  if (!session) throw new Closed("This page was not opened with an address from `nara-mesh dashboard`.");
  const nonce = base64(crypto.getRandomValues(new Uint8Array(24)));
  const response = await fetch("/page/hello", {
    method: "POST",
    credentials: "omit",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ session: session.session, nonce }),
  });
  if (response.status === 404) {
    forget();
    throw new Closed("The session of this page has ended.");
  }
  if (!response.ok) throw await failed(response);
  const hash = await crypto.subtle.digest("SHA-256", text.encode(session.secret));
  const key = await crypto.subtle.importKey("raw", hash, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  const about = text.encode(`nara-mesh page ${location.port || "80"} ${nonce}`);
  const expected = base64(await crypto.subtle.sign("HMAC", key, about));
  if ((await response.json()).proof !== expected) {
    throw new Closed("Another program answers at this address. Nothing was sent to it.");
  }
};

const call = async (path, options = {}) => {
  const headers = { ...options.headers, "x-nara-page": session?.secret ?? "" };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  throw await failed(response);
};

export const get = async (path, signal) => (await call(path, { signal })).json();

export const send = async (method, path, body) => {
  const options = { method };
  if (body !== undefined) {
    options.headers = { "content-type": "application/json" };
    options.body = JSON.stringify(body);
  }
  const response = await call(path, options);
  return response.status === 204 ? null : response.json();
};

/** Reads server-sent events until the stream ends. */
export const follow = async (path, signal, take) => {
  const response = await call(path, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const messages = buffer.split("\n\n");
    buffer = messages.pop();
    for (const message of messages) {
      let name = "message";
      const data = [];
      for (const line of message.split("\n")) {
        if (line.startsWith("event:")) name = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).trim());
      }
      if (data.length > 0) take(name, JSON.parse(data.join("\n")));
    }
  }
};

/** An unambiguous reference to a peer: a name may look like the id or the address of another nara. */
export const reference = (peer) => peer.key_id ?? peer.id ?? peer.name ?? peer.address;

export const peerPath = (peer, rest = "") => `/v1/peers/${encodeURIComponent(peer)}${rest}`;
