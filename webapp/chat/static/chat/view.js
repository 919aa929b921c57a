// The branch of the tree that is shown, as elements made from the page's templates.

import { mark, unmark } from "./compare.js";
import { Rendered, withThought } from "./markdown.js";
import { isBlind } from "./tree.js";

const template = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

/** So many turns at the end are drawn at once; the others when somebody scrolls near them. */
const AT_ONCE = 6;

export class View {
  /**
   * @param {HTMLOListElement} list
   * @param {(name: string, values?: object) => string} say a sentence of the page's language
   * @param {(change: () => void) => void} steady change heights without moving what is looked at
   */
  constructor(list, say, steady) {
    this.list = list;
    this.say = say;
    this.turns = new Map(); // group key -> {element, kind, group, drawn, seen}
    this.sides = new Map(); // message id -> {element, rendered, message, turn}
    this.stale = new Set();
    const near = (entries) => {
      const turns = entries.filter((one) => one.isIntersecting).map((one) => this.turnOf(one.target));
      steady(() => turns.forEach((turn) => turn && this.see(turn)));
    };
    this.watch = new IntersectionObserver(near, { root: list.parentElement, rootMargin: "100% 0px" });
  }

  /** Show a path. Elements that stay keep their state. */
  draw(path) {
    const counts = new Map(path.map((group) => [group.key, group.messages.length]));
    // The other side of a pair may come later.
    for (const [key, turn] of this.turns) if (counts.get(key) !== turn.group.messages.length) this.remove(turn);
    let next = this.list.firstElementChild;
    path.forEach((group, index) => {
      group.last = index === path.length - 1;
      const turn = this.turns.get(group.key) ?? this.outline(group);
      turn.group = group;
      if (turn.element === next) next = next.nextElementSibling;
      else this.list.insertBefore(turn.element, next);
      if (turn.seen || index >= path.length - AT_ONCE) this.see(turn);
    });
  }

  remove(turn) {
    this.watch.unobserve(turn.element);
    turn.element.remove();
    for (const message of turn.group.messages) this.sides.delete(message.id);
    this.turns.delete(turn.group.key);
  }

  /** A turn that nobody has looked at yet: its bare text, which can be searched, in a place of any height. */
  outline(group) {
    const element = document.createElement("li");
    element.className = "turn outline";
    element.dataset.group = group.key;
    element.textContent = group.messages.map((message) => message.text).join("\n");
    const turn = { element, group, kind: group.messages[0].role === "user" ? "user" : "answer", seen: false, drawn: "" };
    this.turns.set(group.key, turn);
    this.watch.observe(element);
    return turn;
  }

  /** Draw a turn whole, as far as it has changed. */
  see(turn) {
    const { group } = turn;
    if (!turn.seen) this.make(turn);
    const now = [group.index, group.of, group.last, ...group.messages.map((message) => message.version)].join();
    if (now === turn.drawn) return;
    turn.drawn = now;
    this.fill(turn);
  }

  /** An answer has changed: draw it with the next frame of the screen. */
  touch(message, after = () => {}) {
    if (!this.sides.has(message.id)) return;
    if (!this.stale.size) {
      const draw = () => {
        const turns = new Set([...this.stale].map((id) => this.sides.get(id)?.turn));
        this.stale.clear();
        for (const turn of turns) if (turn) this.see(turn);
        after();
      };
      // No frames are drawn where nobody looks, and the answer must not wait for that.
      if (document.hidden) setTimeout(draw, 100);
      else requestAnimationFrame(draw);
    }
    this.stale.add(message.id);
  }

  make(turn) {
    const { group, kind } = turn;
    const element = template(kind === "user" ? "t-user" : "t-turn");
    element.dataset.group = group.key;
    this.watch.unobserve(turn.element);
    turn.element.replaceWith(element);
    turn.element = element;
    turn.seen = true;
    if (kind === "user") return;
    const sides = element.querySelector(".sides");
    element.classList.toggle("pair", group.messages.length > 1);
    for (const message of group.messages) {
      const side = template("t-side");
      side.dataset.message = message.id;
      sides.append(side);
      const rendered = new Rendered(side.querySelector(".body"), this.say("copyCode"));
      this.sides.set(message.id, { element: side, rendered, message, turn });
    }
    if (!group.messages[0].pair) this.join(element);
  }

  /** One answer has one row of tools, where a pair has one for each side and one for both. */
  join(element) {
    const row = element.querySelector(".side-answer .actions");
    const both = element.querySelector(":scope > .actions");
    row.prepend(both.querySelector(".branches"));
    row.querySelector("[data-act=copy]").after(both.querySelector("[data-act=again]"));
    both.remove();
  }

  fill(turn) {
    const { element, group } = turn;
    const branches = element.querySelector(".branches");
    branches.hidden = group.of < 2;
    branches.querySelector(".branch").textContent = `${group.index + 1}/${group.of}`;
    branches.querySelector(".branch").ariaLabel = this.say("branch", { n: group.index + 1, of: group.of });
    branches.querySelector("[data-act=previous]").disabled = group.index === 0;
    branches.querySelector("[data-act=next]").disabled = group.index === group.of - 1;
    if (turn.kind === "user") {
      element.dataset.message = group.messages[0].id;
      element.querySelector(".bubble").textContent = group.messages[0].text;
      return;
    }
    for (const message of group.messages) {
      const side = this.sides.get(message.id);
      side.message = message;
      this.fillSide(side);
    }
    this.fillTurn(turn);
  }

  fillTurn(turn) {
    const { element, group } = turn;
    const { pair } = group.messages[0];
    const ended = group.messages.every((message) => message.state !== "queued");
    const whole = group.messages.every((message) => message.state === "ended" && message.finish !== "error");
    const counts = group.messages.every((message) => message.finish === "stop");
    element.querySelector("[data-act=again]").hidden = !ended;
    element.querySelector(".vote").hidden = !pair || Boolean(pair.choice) || !ended;
    element.querySelector(".vote-question").textContent = this.say(counts ? "whichBetter" : "noVote");
    element.querySelector(".vote-buttons").hidden = !counts;
    if (pair) element.querySelector("[data-act=compare]").hidden = !whole;
    const preferred = pair && group.messages.find((message) => message.target === pair.choice);
    const verdict = element.querySelector(".verdict");
    verdict.hidden = !pair?.choice;
    if (pair?.choice) {
      const sentence = { tie: "votedTie", both_bad: "votedBad", seen: "seen" }[pair.choice] ?? "votedFor";
      verdict.textContent = this.say(sentence, { name: preferred && this.nameOf(preferred) });
    }
    const goesOn = element.querySelector(".goes-on");
    goesOn.hidden = !pair || !ended || !group.last;
    const from = preferred ?? group.messages.find((message) => message.target === "adapter");
    goesOn.textContent = pair?.choice ? this.say("goesOn", { name: this.nameOf(from) }) : this.say("goesOnUnvoted");
  }

  /** Mark word differences in a pair, or unmark them. Returns a sentence to say if there is nothing to mark. */
  compare(turn, on) {
    const bodies = [...turn.element.querySelectorAll(".body")];
    bodies.forEach(unmark);
    if (!on) return "";
    const found = mark(...bodies);
    return found === "marked" ? "" : this.say(found);
  }

  /** Who gave an answer. */
  nameOf({ target, adapter }) {
    return this.say(target === "base" ? "base" : "adapter") + (adapter ? ` · ${adapter}` : "");
  }

  fillSide({ element, rendered, message }) {
    const live = message.state === "queued";
    const blind = isBlind(message);
    const letter = message.pair?.left === message.target ? "answerA" : "answerB";
    element.querySelector(".name").textContent = blind ? this.say(letter) : this.nameOf(message);
    element.dataset.target = blind ? "blind" : message.target;
    element.setAttribute("aria-busy", String(live));
    // A screen reader may change its voice with the language.
    rendered.element.lang = blind || message.target === "base" ? "" : "id";
    const { thought, said } = withThought(message.text);
    element.querySelector(".thought").hidden = !thought;
    element.querySelector(".thought p").textContent = thought;
    rendered.show(said, live);
    const { text, kind } = this.stateOf(message);
    const state = element.querySelector(".state");
    state.textContent = text;
    state.dataset.kind = kind;
    const actions = element.querySelector(".actions");
    actions.querySelector("[data-act=copy]").hidden = live || !message.text;
    actions.querySelector("[data-act=retry]").hidden = !(message.state === "lost" || message.finish === "error");
    const cut = message.state === "ended" && ["cancelled", "length"].includes(message.finish) && message.text.trim();
    actions.querySelector("[data-act=continue]").hidden = !cut || blind;
    actions.querySelector(".origin").hidden = live || !message.model || blind;
    if (!live && !blind) this.fillOrigin(element.querySelector(".origin dl"), message);
  }

  stateOf(message) {
    const notes = message.notes.map(([name, values]) => this.say(name, values));
    if (message.state === "lost") return { kind: "bad", text: this.say("lost") };
    if (message.state === "queued") {
      const { place } = message;
      if (place) {
        const name = place.eta == null ? "queued" : "queuedEta";
        return { kind: "wait", text: this.say(name, { ...place, eta: place.eta == null ? "" : this.duration(place.eta) }) };
      }
      if (!message.text) return { kind: "wait", text: this.say(message.worker ? "starting" : "submitting") };
      return { kind: "note", text: notes.join(" ") };
    }
    if (message.finish === "error") {
      return { kind: "bad", text: message.detail ? this.say("failed", message) : this.say("failedPlain") };
    }
    if (message.finish === "cancelled" && !message.text) notes.unshift(this.say("cancelledEmpty"));
    else if (message.finish === "cancelled" || message.finish === "length") notes.unshift(this.say(message.finish));
    else if (!message.text.trim()) notes.unshift(this.say("emptyAnswer"));
    return { kind: "note", text: notes.join(" ") };
  }

  duration(seconds) {
    return seconds < 90
      ? this.say("seconds", { n: Math.max(1, Math.round(seconds)) })
      : this.say("minutes", { n: Math.round(seconds / 60) });
  }

  fillOrigin(list, message) {
    const number = (value, digits = 0) =>
      value.toLocaleString(document.documentElement.lang, { maximumFractionDigits: digits });
    const time = (value) => (value < 1_000
      ? this.say("milliseconds", { n: number(value) })
      : this.say("seconds", { n: number(value / 1000, 1) }));
    const { timings = {}, usage = {} } = message;
    const rows = [
      ["model", message.model],
      ["adapterHash", message.adapter_sha?.slice(0, 12)],
      ["worker", message.worker],
      ["seed", message.seed],
      ["settings", this.settingsOf(message.settings)],
      ["systemPrompt", message.system],
      ["tokens", usage.completion_tokens != null &&
        this.say("tokensValue", { prompt: number(usage.prompt_tokens ?? 0), completion: number(usage.completion_tokens) })],
      ["speed", timings.tokens_per_second != null && this.say("tokensPerSecond", { n: number(timings.tokens_per_second, 1) })],
      ["firstToken", timings.first_token_ms != null && time(timings.first_token_ms)],
      ["queueTime", timings.queued_ms != null && time(timings.queued_ms)],
      ["total", timings.total_ms != null && time(timings.total_ms)],
    ];
    list.replaceChildren(...rows.filter(([, value]) => value || value === 0).map(([name, value]) => {
      const row = document.createElement("div");
      const [term, what] = [document.createElement("dt"), document.createElement("dd")];
      [term.textContent, what.textContent] = [this.say(name), value];
      row.append(term, what);
      return row;
    }));
  }

  settingsOf(settings = {}) {
    const parts = [this.say("atMost", { n: settings.max_new_tokens })];
    if (settings.greedy) return [...parts, this.say("greedy")].join(", ");
    for (const name of ["temperature", "top_p", "top_k"]) if (settings[name] != null) parts.push(`${name} ${settings[name]}`);
    if (parts.length === 1) parts.push(this.say("modelDefaults"));
    return parts.join(", ");
  }

  turnOf(element) {
    return this.turns.get(element.closest("[data-group]")?.dataset.group);
  }
}
