// The messages of a conversation as a tree, and the one branch of it that is shown.

/** The cursor of a reader that has seen nothing. */
export const ORIGIN = "0-0";

function later(a, b) {
  const [epochA, numberA] = a.split("-").map(BigInt);
  const [epochB, numberB] = b.split("-").map(BigInt);
  return epochA > epochB || (epochA === epochB && numberA > numberB);
}

/** Whether nobody may know yet who gave an answer: it stands beside another, and there is no vote. */
export const isBlind = ({ pair }) => Boolean(pair && !pair.choice);

export class Tree {
  constructor() {
    this.messages = new Map();
    this.children = new Map(); // parent id or null -> its messages
    this.chosen = new Map(); // spot -> key of the group that is shown there
    this.shown = null; // the path, until something changes it
  }

  /** Take in a message as the server knows it. Returns the message of this tree. */
  put(given) {
    this.shown = null;
    const known = this.messages.get(given.id);
    if (!known) {
      const message = { cursor: ORIGIN, notes: [], version: 0, ...given };
      this.messages.set(message.id, message);
      if (!this.children.has(message.parent)) this.children.set(message.parent, []);
      this.children.get(message.parent).push(message);
      return message;
    }
    known.version++;
    // While it is written, the events know more than the database.
    if (given.state === "queued" && known.cursor !== ORIGIN) {
      known.pair = given.pair;
      return known;
    }
    return Object.assign(known, given);
  }

  /** Events of an answer; those that are known already are passed over. Returns the message, if it is here. */
  apply(gid, items) {
    const message = this.messages.get(gid);
    // What the database calls ended is whole: events that tell how it came to be would double it.
    if (message?.state !== "queued") return null;
    for (const [id, event] of items) {
      if (!later(id, message.cursor)) continue;
      message.cursor = id;
      message.version++;
      message.place = null;
      switch (event.type) {
        case "start":
          message.text = message.given ?? ""; // what an earlier worker wrote is void
          message.model = event.model;
          message.adapter_sha = event.adapter_sha;
          message.worker = event.worker;
          if (event.turns_left_out) message.notes.push(["leftOut", { n: event.turns_left_out }]);
          break;
        case "delta":
          message.text += event.text;
          break;
        case "snapshot":
          message.text = (message.given ?? "") + event.text;
          break;
        case "resume":
          message.notes.push(["resumed", {}]);
          break;
        case "end":
          message.state = "ended";
          message.finish = event.finish;
          message.detail = event.detail;
          message.usage = event.usage;
          message.timings = event.timings;
          break;
      }
    }
    return message;
  }

  /** Where an answer stands in the queue. Returns the message, if it waits. */
  place(frame) {
    const message = this.messages.get(frame.gid);
    if (message?.state !== "queued" || message.text) return null;
    message.place = frame;
    message.version++;
    return message;
  }

  /** How far each answer that has not ended is known. */
  cursors() {
    const live = [...this.messages.values()].filter((message) => message.state === "queued");
    return Object.fromEntries(live.slice(-64).map((message) => [message.id, message.cursor]));
  }

  /** The alternatives under some messages (or at the root), oldest first. A pair is one alternative. */
  groups(parents) {
    const groups = new Map();
    for (const message of parents.flatMap((parent) => this.children.get(parent) ?? [])) {
      const key = message.pair?.id ?? message.id;
      if (!groups.has(key)) groups.set(key, { key, messages: [], created: message.created });
      groups.get(key).messages.push(message);
    }
    for (const { messages } of groups.values()) {
      const left = messages[0].pair?.left;
      messages.sort((a, b) => (b.target === left) - (a.target === left));
    }
    return [...groups.values()].sort((a, b) => a.created - b.created);
  }

  /** What is shown: one group after the other, each with its alternatives. */
  path() {
    if (this.shown) return this.shown;
    const path = [];
    let parents = [null];
    for (;;) {
      const groups = this.groups(parents);
      if (!groups.length) return (this.shown = path);
      const spot = parents.join();
      const at = groups.findIndex((group) => group.key === this.chosen.get(spot));
      const index = at < 0 ? groups.length - 1 : at;
      const group = groups[index];
      path.push({ ...group, spot, index, of: groups.length, keys: groups.map((one) => one.key) });
      parents = group.messages.map((message) => message.id);
    }
  }

  choose(spot, key) {
    this.chosen.set(spot, key);
    this.shown = null;
  }

  /** Show the branch on which these messages are. */
  show(ids) {
    let at = this.messages.get(ids[0]);
    while (at) {
      const siblings = at.parent === null ? [null] : this.groupOf(at.parent);
      this.choose(siblings.join(), at.pair?.id ?? at.id);
      at = this.messages.get(at.parent);
    }
  }

  /** The ids of the group that a message belongs to, in their shown order: what `path` calls a spot. */
  groupOf(id) {
    const message = this.messages.get(id);
    const group = this.groups([message.parent]).find((one) => one.messages.includes(message));
    return group.messages.map((one) => one.id);
  }

  /** The answer that the next text goes under: of a pair the preferred one, else the adapter's. */
  leaf() {
    const last = this.path().at(-1);
    if (!last) return null;
    const by = (target) => last.messages.find((message) => message.target === target);
    return by(last.messages[0].pair?.choice) ?? by("adapter") ?? last.messages[0];
  }

  live() {
    return this.path().flatMap((group) => group.messages).filter((message) => message.state === "queued");
  }
}
