// The WebSocket, kept alive: hello first, frames sent again until they are answered, back-off with jitter.
// The server's side: chat/frames.py for what it takes, chat/payloads.py for what it sends.

import { data, say } from "./page.js";

const VERSION = 1;
const PING_MS = 25_000;
const ANSWER_MS = 10_000;
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 15_000;

/** Close codes after which connecting again would only fail again. */
const FINAL = new Map([[4401, "expired"], [4429, "manySockets"]]);

/** The close code of a server to which a frame was too large. */
const TOO_LARGE = 1009;

/** So many bytes a frame has on its way. */
const bytes = (frame) => new Blob([JSON.stringify(frame)]).size;

export class Connection {
  /**
   * @param {string} url of the socket
   * @param {() => object} hello what to say first, each time
   * @param {{frame: (frame: object) => void, state: (state: string) => void}} handlers
   *   state: "open", "closed" (trying again), or why it stays closed: "expired", "manySockets", "outdated"
   */
  constructor(url, hello, handlers) {
    this.url = url;
    this.hello = hello;
    this.handlers = handlers;
    this.waiting = new Map(); // cid -> frame that has no answer yet
    this.retries = 0;
    this.final = false;
    this.connect();
    addEventListener("online", () => this.connect());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.refresh();
    });
  }

  get open() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  connect() {
    if (this.final || this.open || this.socket?.readyState === WebSocket.CONNECTING) return;
    clearTimeout(this.retry);
    const socket = (this.socket = new WebSocket(this.url));
    socket.addEventListener("open", () => this.greet());
    socket.addEventListener("message", (event) => this.receive(JSON.parse(event.data)));
    socket.addEventListener("close", (event) => {
      if (socket === this.socket) this.closed(event.code);
    });
  }

  /** Say hello (again): the server answers with what has changed since the last time. */
  greet() {
    this.write({ type: "hello", v: VERSION, language: document.documentElement.lang, ...this.hello() });
  }

  /** Somebody looks again: another tab may have written in the meantime. */
  refresh() {
    if (this.open) this.greet();
    else this.connect();
  }

  /** Send a frame that is answered by its cid, as often as it takes; the server acts on it once. */
  ask(frame) {
    const cid = crypto.getRandomValues(new Uint32Array(4)).join("-");
    const asked = { ...frame, cid };
    if (bytes(asked) > data.frame) {
      // Whoever asks has to know the cid before the refusal comes.
      setTimeout(() => this.tooLarge(cid));
      return cid;
    }
    this.waiting.set(cid, asked);
    this.write(asked);
    return cid;
  }

  /** Send a frame of a known cid, whose act is seen and not answered, until it is `seen`. */
  insist(frame) {
    this.waiting.set(frame.cid, frame);
    this.write(frame);
  }

  seen(cid) {
    this.waiting.delete(cid);
  }

  /** Refuse a frame in the server's place: each time it was sent, it would close the socket. */
  tooLarge(cid) {
    this.waiting.delete(cid);
    this.handlers.frame({ type: "error", cid, message: say("tooLarge") });
  }

  /** Send a frame whose loss does no harm. */
  write(frame) {
    if (this.open) this.socket.send(JSON.stringify(frame));
  }

  receive(frame) {
    this.alive();
    if (frame.type === "pong") return;
    if (frame.type === "ready") {
      this.retries = 0;
      this.handlers.state("open");
    }
    if (frame.cid && this.waiting.has(frame.cid)) {
      if (frame.type === "error" && frame.code === "unavailable") {
        setTimeout(() => this.waiting.has(frame.cid) && this.write(this.waiting.get(frame.cid)), 2_000);
      } else this.waiting.delete(frame.cid);
    }
    if (frame.type === "error" && frame.code === "version") this.stay("outdated");
    this.handlers.frame(frame);
    if (frame.type === "ready") for (const waiting of this.waiting.values()) this.write(waiting);
  }

  /** Something was heard: ask again in a while, and give up on the socket if nothing comes back. */
  alive() {
    clearTimeout(this.ping);
    clearTimeout(this.dead);
    this.ping = setTimeout(() => {
      this.write({ type: "ping" });
      this.dead = setTimeout(() => this.drop(), ANSWER_MS);
    }, PING_MS);
  }

  /** Let go of a socket without waiting for its closing handshake, which a dead network never finishes. */
  drop() {
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    this.closed(0);
  }

  closed(code) {
    clearTimeout(this.ping);
    clearTimeout(this.dead);
    if (FINAL.has(code)) this.stay(FINAL.get(code));
    const [largest] = [...this.waiting.values()].sort((a, b) => bytes(b) - bytes(a));
    if (code === TOO_LARGE && largest) this.tooLarge(largest.cid);
    if (this.final) return;
    this.handlers.state("closed");
    const wait = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.retries++);
    clearTimeout(this.retry);
    this.retry = setTimeout(() => this.connect(), wait * (0.5 + Math.random() / 2));
  }

  stay(reason) {
    this.final = true;
    this.handlers.state(reason);
  }
}
