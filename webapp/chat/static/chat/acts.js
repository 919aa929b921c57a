// What a person does with a turn: copy, edit, ask again, compare, vote, look at another version.

import { keep, kept } from "./drafts.js";
import { adapter, rival } from "./adapters.js";
import { rewrite } from "./given.js";
import { $, blank, composing, data, problem, say, sends, size } from "./page.js";
import { unstick } from "./scroll.js";
import { asked, settings, target } from "./settings.js";
import { ask, failed } from "./site.js";

export class Acts {
  /**
   * @param {{tree: Tree, view: View, announcer: Announcer, ask: (frame: object) => string, draw: () => void}} chat
   *   ask: send a frame to the server; returns its cid
   *   draw: show what has changed in the tree
   */
  constructor(chat) {
    this.chat = chat;
    this.asked = null; // {cid, draft, reopen} of what is on its way
    const first = (turn) => turn.group.messages[0];
    const messageOf = (element) => chat.tree.messages.get(element.closest("[data-message]").dataset.message);
    this.acts = { // by data-act
      copy: (turn, button) => this.copy(messageOf(button).text, button),
      "copy-code": (turn, button) => this.copy($("code", button.closest(".code")).textContent, button),
      edit: (turn) => this.edit(turn),
      "cancel-edit": (turn) => this.endEdit(turn),
      previous: (turn) => this.branch(turn, -1),
      next: (turn) => this.branch(turn, 1),
      again: (turn) => this.again(first(turn), { settings: { ...settings(), seed: null }, ...this.other(first(turn)) }),
      retry: (turn) => this.again(first(turn), { given: first(turn).given }),
      reproduce: (turn, button) => {
        const message = messageOf(button);
        const who = message.target === "base" ? { target: "base" } : { target: "adapter", adapter: message.adapter };
        this.again(message, { settings: { ...message.settings, seed: message.seed }, given: message.given, ...who });
      },
      continue: (turn, button) => this.again(messageOf(button), { given: messageOf(button).text }),
      rewrite: (turn, button) => this.rewrite(messageOf(button)),
      compare: (turn, button) => this.compare(turn, button),
      "vote-left": (turn) => this.vote(turn, first(turn).pair.left),
      "vote-right": (turn) => this.vote(turn, turn.group.messages.at(-1).target),
      "vote-tie": (turn) => this.vote(turn, "tie"),
      "vote-bad": (turn) => this.vote(turn, "both_bad"),
      reveal: (turn) => this.vote(turn, "seen"),
    };
    const turns = $("#turns");
    turns.addEventListener("click", (event) => {
      const button = event.target.closest("[data-act]");
      const turn = button && chat.view.turnOf(button);
      if (turn) this.acts[button.dataset.act]?.(turn, button);
    });
    turns.addEventListener("submit", (event) => this.submit(event));
    turns.addEventListener("keydown", (event) => this.key(event));
    turns.addEventListener("input", ({ target: field }) => {
      size(field);
      keep(this.draft(this.chat.view.turnOf(field)), field.value);
    });
    turns.addEventListener("toggle", (event) => keepInSight(event.target), true);
  }

  async copy(value, button) {
    if (!(await toClipboard(value))) return problem(say("notCopied"));
    button.classList.add("done");
    this.chat.announcer.say(say("copied"));
    setTimeout(() => button.classList.remove("done"), 1_500);
  }

  /**
   * Ask for another answer. Returns whether it is asked for.
   *
   * @param {{draft: string, reopen: () => void}} [written] the name of what was written for it, and how to get back to it
   */
  again(message, given = {}, written = {}) {
    if (this.refuses()) return false;
    this.asked = { cid: this.chat.ask({ type: "regenerate", message: message.id, ...given }), ...written };
    return true;
  }

  /** Let an answer be changed, and go on with what it has become. */
  rewrite(message) {
    const written = { draft: `rewrite:${message.id}`, reopen: () => this.rewrite(message) };
    rewrite(message, written.draft, (given) => this.again(message, { given }, written));
  }

  /** Whether nothing can be asked for now, and if so, say why. */
  refuses() {
    if (this.asked) return true;
    const writing = this.chat.tree.live().length > 0;
    problem(writing ? say("stillWriting") : "");
    return writing;
  }

  /** What came under this cid is answered; `stored`: by what was asked for. */
  answered(cid, stored) {
    if (cid !== this.asked?.cid) return;
    const { draft, reopen } = this.asked;
    this.asked = null;
    if (!draft) return;
    if (stored) keep(draft, "");
    else reopen();
  }

  /** Another answer comes from the adapters that are chosen now, where an adapter answers at all. */
  other(message) {
    if (message.pair) return { adapter: adapter(), rival: target() === "both" ? rival() : null };
    return message.target === "base" ? {} : { adapter: adapter() };
  }

  branch(turn, step) {
    const { spot, keys, index } = turn.group;
    unstick();
    this.chat.tree.choose(spot, keys[index + step]);
    this.chat.draw();
    // The button that was pressed went with its turn.
    const now = this.chat.view.turns.get(keys[index + step]);
    this.chat.view.see(now);
    const pressed = $(`.branches [data-act=${step < 0 ? "previous" : "next"}]`, now.element);
    (pressed.disabled ? $(".branches button:enabled", now.element) : pressed).focus({ preventScroll: true });
  }

  compare(turn, button) {
    const on = button.getAttribute("aria-pressed") !== "true";
    const sentence = this.chat.view.compare(turn, on);
    button.setAttribute("aria-pressed", String(on && !sentence));
    problem(sentence);
  }

  async vote(turn, choice) {
    const { pair } = turn.group.messages[0];
    const answer = await ask(`/pairs/${pair.id}/vote`, { choice });
    if (!answer.ok && !(answer.status === 409 && answer.value.choice)) return failed(answer);
    for (const { id } of turn.group.messages) this.chat.tree.put({ id, pair: answer.value });
    if (turn.group.messages.some((message) => message.target === choice)) $("#votes").hidden = false;
    const within = $(".vote", turn.element).contains(document.activeElement);
    this.chat.draw();
    if (within) $(".verdict", turn.element).focus();
  }

  // --- The editor of a text ------------------------------------------------------------------------------------------

  draft(turn) {
    return `edit:${turn.group.key}`;
  }

  edit(turn) {
    const { element } = turn;
    if (!$(".editor", element)) element.append($("#t-editor").content.cloneNode(true));
    const field = $(".editor textarea", element);
    field.value = kept(this.draft(turn)) || turn.group.messages[0].text;
    element.classList.add("editing");
    size(field);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  closeEditor(turn) {
    $(".editor", turn.element).remove();
    turn.element.classList.remove("editing");
    $("#text").focus();
  }

  endEdit(turn) {
    keep(this.draft(turn), "");
    this.closeEditor(turn);
  }

  submit(event) {
    event.preventDefault();
    const turn = this.chat.view.turnOf(event.target);
    const { value } = $("textarea", event.target);
    if (blank(value) || this.refuses()) return;
    const have = value.length;
    if (have > data.limit) return problem(say("tooMany", { have, most: data.limit }));
    const draft = this.draft(turn);
    keep(draft, value);
    this.closeEditor(turn);
    const message = turn.group.messages[0].id;
    const frame = { type: "edit", message, text: value, ...asked() };
    this.asked = { cid: this.chat.ask(frame), draft, reopen: () => this.edit(turn) };
  }

  key(event) {
    const form = event.target.closest(".editor");
    if (!form || composing(event)) return;
    if (sends(event)) {
      event.preventDefault();
      form.requestSubmit();
    } else if (event.key === "Escape") {
      event.stopPropagation();
      this.endEdit(this.chat.view.turnOf(form));
    }
  }

  /** Open the editors whose texts were not sent before the page was left. */
  reopen() {
    for (const turn of this.chat.view.turns.values()) {
      if (turn.kind !== "user" || !kept(this.draft(turn))) continue;
      this.chat.view.see(turn);
      this.edit(turn);
    }
  }
}

/** Copy a text; returns whether it worked. */
async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Over plain http from another machine there is no such clipboard, but a selection can be copied.
    const before = document.activeElement;
    const field = document.createElement("textarea");
    field.className = "sr";
    field.value = text;
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    before?.focus({ preventScroll: true });
    return copied;
  }
}

/** Where an answer is from opens above its button, or below where there is no room. */
function keepInSight(card) {
  if (!card.open || !card.matches(".origin")) return;
  const list = $(".origin-card", card);
  list.classList.remove("below");
  // Nobody can scroll to what stands above the beginning.
  list.classList.toggle("below", list.getBoundingClientRect().top < $("#scroll").getBoundingClientRect().top);
  list.scrollIntoView({ block: "nearest" });
}
