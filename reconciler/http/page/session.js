// The token and the language, stored until the tab is closed. Nothing is stored longer, and no cookie is set.

const inMemory = new Map();

/** Return the stored value of this name, null where there is none. */
export function recall(name) {
  try {
    return sessionStorage.getItem(name) ?? inMemory.get(name) ?? null;
  } catch {
    return inMemory.get(name) ?? null; // a browser may forbid storage; then the value lasts as long as the page
  }
}

/** Store a value under this name; null removes it. */
export function keep(name, value) {
  if (value === null) inMemory.delete(name);
  else inMemory.set(name, value);
  try {
    if (value === null) sessionStorage.removeItem(name);
    else sessionStorage.setItem(name, value);
  } catch {
    // see recall
  }
}

/** Return the token of `#token=…` and remove it from the address, so that no history or screenshot shows it. */
export function tokenFromAddress() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get("token");
  if (token === null) return null;
  history.replaceState(null, "", location.pathname + location.search);
  return token;
}

/** Return a token without the blanks and the "Bearer" pasted around it; null where it cannot be a token. */
export function cleaned(token) {
  const bare = token.trim().replace(/^bearer\s+/i, "");
  return /^[\x21-\x7e]{1,8000}$/.test(bare) ? bare : null;
}
