// What a person does with a turn: copy, edit, ask again, compare, vote, look at another version.

import { $, post, problem, say, size } from "./page.js";
import { unstick } from "./scroll.js";
import { settings, target } from "./settings.js";

export class Acts {
  /**
   * @param {{tree: Tree, view: View, announcer: Announcer, ask: (frame: object) => void, draw: () => void}} chat
   *   ask: send a frame to the server
   *   draw: show what has changed in the tree
   */
  constructor(chat) {
    this.chat = chat;
    const first = (turn) => turn.group.messages[0];
    const messageOf = (element) => chat.tree.messages.get(element.closest("[data-message]").dataset.message);
    this.acts = { // by data-act
      copy: (turn, button) => this.copy(messageOf(button).text, button),
      "copy-code": (turn, button) => this.copy($("code", button.closest(".code")).textContent, button),
      edit: (turn) => this.edit(turn),
      "cancel-edit": (turn) => this.endEdit(turn),
      previous: (turn) => this.branch(turn, -1),
      next: (turn) => this.branch(turn, 1),
      again: (turn) => this.again(first(turn), { settings: { ...settings(), seed: null } }),
      retry: (turn) => this.again(first(turn)),
      reproduce: (turn, button) => {
        const message = messageOf(button);
        this.again(message, { settings: { ...message.settings, seed: message.seed }, target: message.target });
      },
      compare: (turn, button) => this.compare(turn, button),
      "vote-left": (turn) => this.vote(turn, first(turn).pair.left),
      "vote-right": (turn) => this.vote(turn, first(turn).pair.left === "base" ? "adapter" : "base"),
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
    turns.addEventListener("input", (event) => size(event.target));
    turns.addEventListener("toggle", (event) => keepInSight(event.target), true);
  }

  async copy(value, button) {
    await navigator.clipboard.writeText(value);
    button.classList.add("done");
    this.chat.announcer.say(say("copied"));
    setTimeout(() => button.classList.remove("done"), 1_500);
  }

  again(message, given = {}) {
    problem("");
    this.chat.ask({ type: "regenerate", message: message.id, ...given });
  }

  branch(turn, step) {
    const { spot, keys, index } = turn.group;
    unstick();
    this.chat.tree.choose(spot, keys[index + step]);
    this.chat.draw();
  }

  compare(turn, button) {
    const on = button.getAttribute("aria-pressed") !== "true";
    const sentence = this.chat.view.compare(turn, on);
    button.setAttribute("aria-pressed", String(on && !sentence));
    problem(sentence);
  }

  async vote(turn, choice) {
    const { pair } = turn.group.messages[0];
    const { ok, status: code, value } = await post(`/pairs/${pair.id}/vote`, { choice });
    if (!ok && !(code === 409 && value.choice)) return problem(value.error ?? say("somethingWrong"));
    for (const message of turn.group.messages) message.pair = value;
    this.chat.draw();
  }

  // --- The editor of a text ------------------------------------------------------------------------------------------

  edit(turn) {
    const { element } = turn;
    const form = $(".editor", element);
    const field = $("textarea", form);
    field.value = turn.group.messages[0].text;
    form.hidden = false;
    element.classList.add("editing");
    size(field);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  endEdit(turn) {
    $(".editor", turn.element).hidden = true;
    turn.element.classList.remove("editing");
    $("#text").focus();
  }

  submit(event) {
    event.preventDefault();
    const turn = this.chat.view.turnOf(event.target);
    const { value } = $("textarea", event.target);
    if (!value.trim() || this.chat.tree.live().length) return;
    this.endEdit(turn);
    problem("");
    const message = turn.group.messages[0].id;
    this.chat.ask({ type: "edit", message, text: value, settings: settings(), target: target() });
  }

  key(event) {
    const form = event.target.closest(".editor");
    if (!form) return;
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    } else if (event.key === "Escape") {
      event.stopPropagation();
      this.endEdit(this.chat.view.turnOf(form));
    }
  }
}

/** Where an answer is from opens above its button, or below where there is no room. */
function keepInSight(card) {
  if (!card.open) return;
  const list = $(".origin-card", card);
  list.classList.remove("below");
  // Nobody can scroll to what stands above the beginning.
  list.classList.toggle("below", list.getBoundingClientRect().top < $("#scroll").getBoundingClientRect().top);
  list.scrollIntoView({ block: "nearest" });
}
