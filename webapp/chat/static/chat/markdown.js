// Markdown to DOM: markdown-it without HTML, then DOMPurify, then Trusted Types. While an answer is written, only
// the blocks that changed are made anew.

import DOMPurify from "./vendor/purify.es.mjs";
import hljs from "./vendor/highlight.min.js";
import markdownit from "./vendor/markdown-it.esm.min.mjs";
import { findMaths, setMaths } from "./maths.js";

// A poem keeps its lines.
const parser = markdownit({ html: false, linkify: true, breaks: true, highlight });
findMaths(parser);
// A remote image would tell its server that somebody reads this: it is shown as a link.
parser.renderer.rules.image = (tokens, index) => {
  const token = tokens[index];
  const escape = parser.utils.escapeHtml;
  return `<a href="${escape(token.attrGet("src") ?? "")}">${escape(token.content || token.attrGet("src") || "")}</a>`;
};
// The answer's own heading is an h2.
for (const name of ["heading_open", "heading_close"]) {
  parser.renderer.rules[name] = (tokens, index, options, env, renderer) => {
    const token = tokens[index];
    token.tag = `h${Math.min(6, Number(token.tag[1]) + 2)}`;
    return renderer.renderToken(tokens, index, options);
  };
}

// The page's policy forbids styles, so a column's alignment is a class.
for (const name of ["th_open", "td_open"]) {
  parser.renderer.rules[name] = (tokens, index, options, env, renderer) => {
    const style = tokens[index].attrGet("style");
    if (style) tokens[index].attrs = [["class", style.replace("text-align:", "to-")]];
    return renderer.renderToken(tokens, index, options);
  };
}
// A list of tasks shows which are done.
parser.core.ruler.after("inline", "tasks", ({ tokens }) => {
  tokens.forEach((token, index) => {
    const text = token.type === "inline" && tokens[index - 2]?.type === "list_item_open" && token.children[0];
    if (text?.type === "text") text.content = text.content.replace(/^\[( |x|X)\](?= )/, (box, mark) => (mark === " " ? "☐" : "☑"));
  });
});

const PURE = {
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "del", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s",
    "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["href", "class", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
};

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.localName !== "a") return;
  const href = node.getAttribute("href");
  if (!href || !URL.canParse(href)) {
    node.removeAttribute("href");
    return;
  }
  node.setAttribute("rel", "noopener noreferrer");
  node.setAttribute("target", "_blank");
  // A link's text may name another host than it leads to, so that host is shown beside it, unless it is the text.
  const { host } = new URL(href);
  if (host && host !== node.textContent.replace(/^https?:\/\//, "").split(/[/?#]/)[0]) node.setAttribute("data-host", host);
});

const policy = window.trustedTypes?.createPolicy("klepon", { createHTML: (html) => DOMPurify.sanitize(html, PURE) });
const pure = (html) => (policy ? policy.createHTML(html) : DOMPurify.sanitize(html, PURE));

function highlight(code, language) {
  if (!hljs.getLanguage(language)) return "";
  return hljs.highlight(code, { language, ignoreIllegals: true }).value;
}

/** What a model that reasons wrote for itself, and what it says; a thought that has no end yet is all thought. */
export function withThought(text) {
  const [all, thought] = /^\s*<think>([^]*?)(?:<\/think>\s*|$)/.exec(text) ?? ["", ""];
  return { thought: thought.trim(), said: text.slice(all.length) };
}

/** The text of an answer in an element, kept up to date. */
export class Rendered {
  constructor(element, copyLabel) {
    this.element = element;
    this.copyLabel = copyLabel;
    this.blocks = []; // kind and source of each child element
  }

  /** Show a text; `open` says that more will come. */
  show(text, open) {
    if (text === this.text && open === this.open) return;
    [this.text, this.open] = [text, open];
    const env = {};
    // While a list begins, its first dash would make a heading of the line above.
    parser[open ? "disable" : "enable"]("lheading");
    const tokens = parser.parse(text, env);
    const lines = text.split("\n");
    let index = 0;
    for (const [first, after] of blocks(tokens)) {
      const group = tokens.slice(first, after);
      const [from, to] = group[0].map ?? [0, 0];
      const last = after === tokens.length;
      // Colours for code that is still written would jump about.
      const fence = group[0].type === "fence" && open && last;
      // At the end the same lines may be something else: a line of === below a text makes a heading only then.
      const kinds = group.map((token) => token.type).join();
      const source = `${fence ? "open" : kinds}\0${lines.slice(from, to).join("\n")}`;
      if (this.blocks[index] !== source) {
        this.place(index, fence ? plainFence(group[0]) : parser.renderer.render(group, parser.options, env));
        this.blocks[index] = source;
      }
      index++;
    }
    while (this.element.childElementCount > index) this.element.lastElementChild.remove();
    this.blocks.length = index;
    this.element.classList.toggle("open", open);
  }

  place(index, html) {
    const block = document.createElement("div");
    block.className = "block";
    block.innerHTML = pure(html);
    for (const code of block.querySelectorAll("pre")) this.dress(code);
    for (const table of block.querySelectorAll("table")) {
      const frame = document.createElement("div");
      frame.className = "wide";
      frame.tabIndex = 0;
      table.replaceWith(frame);
      frame.append(table);
    }
    for (const one of block.querySelectorAll("p, li, ul, ol, h3, h4, h5, h6, blockquote, th, td")) one.dir = "auto";
    setMaths(block);
    const old = this.element.children[index];
    if (old) old.replaceWith(block);
    else this.element.append(block);
  }

  /** A code block with its language and a button that copies it; it scrolls, so it takes the keyboard. */
  dress(pre) {
    const code = pre.querySelector("code");
    const frame = document.createElement("div");
    frame.className = "code";
    const bar = document.createElement("div");
    bar.className = "code-bar";
    const name = document.createElement("span");
    name.textContent = /language-(\S+)/.exec(code?.className ?? "")?.[1] ?? "";
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.act = "copy-code";
    button.textContent = this.copyLabel;
    bar.append(name, button);
    pre.replaceWith(frame);
    pre.tabIndex = 0;
    frame.append(bar, pre);
  }
}

/** Where each outermost block begins and ends among the tokens. */
function* blocks(tokens) {
  let first = 0;
  for (let index = 0; index < tokens.length; index++) {
    const { level, nesting } = tokens[index];
    if (level === 0 && nesting <= 0) {
      yield [first, index + 1];
      first = index + 1;
    }
  }
}

function plainFence(token) {
  const language = parser.utils.escapeHtml(token.info.trim().split(/\s+/)[0] ?? "");
  const named = language && ` class="language-${language}"`;
  return `<pre><code${named}>${parser.utils.escapeHtml(token.content)}</code></pre>`;
}
