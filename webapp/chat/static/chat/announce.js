// Answers for those who listen: sentence by sentence, since single words would interrupt each other.

const KEPT = 30;

export class Announcer {
  constructor(element) {
    this.element = element;
    this.said = new Map(); // message id -> how much of its text was read out
  }

  say(text) {
    const line = document.createElement("p");
    line.textContent = text;
    this.element.append(line);
    while (this.element.childElementCount > KEPT) this.element.firstElementChild.remove();
  }

  /** Say the sentences that a text has gained; all of the rest when it has ended. */
  follow(id, text, ended) {
    const from = this.said.get(id) ?? 0;
    const rest = text.slice(from);
    const whole = ended ? rest.length : endOfSentences(rest);
    if (!whole) return;
    this.said.set(id, from + whole);
    const spoken = rest.slice(0, whole).replace(/[*_`#>|~]+/g, "").trim();
    if (spoken) this.say(spoken);
  }

  /** What was there before anybody listened is not read out. */
  skip(id, text) {
    this.said.set(id, text.length);
  }
}

function endOfSentences(text) {
  let end = 0;
  for (const match of text.matchAll(/[.!?…]["'”’)\]]*\s+|\n+/g)) end = match.index + match[0].length;
  return end;
}
