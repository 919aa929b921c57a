// Requests to the site. Whoever's session has ended meanwhile is sent to the log-in page, which is no answer to a script.

import { $, data, loginLink, problem, say } from "./page.js";
import { connectionIs } from "./status.js";

const token = $("[name=csrfmiddlewaretoken]").value;

/**
 * Ask the site for JSON, or post values to it.
 *
 * @returns {Promise<{ok: boolean, status: number, value: object}>} if not ok, `value.error` says why.
 *   status: 401 if the session has ended, 0 if the site cannot be reached
 */
export async function ask(url, values) {
  const options = { headers: { Accept: "application/json" }, redirect: "manual" };
  if (values) {
    options.method = "POST";
    options.headers["X-CSRFToken"] = token;
    options.body = new URLSearchParams(values);
  }
  let response;
  try {
    response = await fetch(url, options);
  } catch {
    return { ok: false, status: 0, value: { error: say("unreachable") } };
  }
  if (response.type === "opaqueredirect" || response.status === 401) {
    connectionIs("expired");
    return { ok: false, status: 401, value: { error: say("expired") } };
  }
  const value = await response.json().catch(() => ({}));
  // The token of this page is void: whoever it belonged to has logged in anew.
  if (!response.ok) value.error ??= say(response.status === 403 ? "outdated" : "somethingWrong");
  return { ok: response.ok, status: response.status, value };
}

/** Say why something did not work. That the session has ended stands in the banner, where no dialog hides it. */
export function failed({ status, value }) {
  if (status !== 401) problem(value.error);
  else if ($("dialog[open]")) problem(value.error, " ", loginLink());
}
