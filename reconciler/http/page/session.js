// What this tab remembers until it is closed: the token and the language. Nothing is kept longer, and no cookie is set.

const kept = new Map();

/** Return what was kept under this name, null where nothing was. */
export function recall(name) {
  try {
    return sessionStorage.getItem(name) ?? kept.get(name) ?? null;
  } catch {
    return kept.get(name) ?? null; // a browser may forbid storage; then it lasts as long as the page
  }
}

/** Keep a value under this name; null forgets it. */
export function keep(name, value) {
  if (value === null) kept.delete(name);
  else kept.set(name, value);
  try {
    if (value === null) sessionStorage.removeItem(name);
    else sessionStorage.setItem(name, value);
  } catch {
    // see recall
  }
}

/** Take the token out of `#token=…` and out of the address at once, so that no history or screenshot keeps it. */
export function tokenFromAddress() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get("token");
  if (token === null) return null;
  history.replaceState(null, "", location.pathname + location.search);
  return token;
}

/** Return a token as it is sent: without what people paste around it; null where it cannot be one. */
export function cleaned(token) {
  const bare = token.trim().replace(/^bearer\s+/i, "");
  return /^[\x21-\x7e]{1,8000}$/.test(bare) ? bare : null;
}
