// Time as the server has it, and spans of time as people say them.

let ahead = 0; // milliseconds by which the server's clock is ahead of ours

/** Learn the server's clock from an answer; it was written about halfway between question and answer. */
export function heard(serverTime, sent, received) {
  const theirs = Date.parse(serverTime ?? "");
  if (!Number.isNaN(theirs)) ahead = theirs - (sent + received) / 2;
}

/** Return the server's time now, in milliseconds. */
export function now() {
  return Date.now() + ahead;
}

/** Return how many seconds ago this was by the server's clock, never less than none. */
export function since(moment) {
  return Math.max(0, (now() - Date.parse(moment)) / 1000);
}

/** Return a span as people say it: seconds up to two minutes, then minutes, then hours and days. */
export function span(seconds, language) {
  const [size, unit] = [[86_400, "day"], [3_600, "hour"], [60, "minute"]].find(([size]) => seconds >= 2 * size) ?? [1, "second"];
  const count = Math.round(seconds / size);
  return new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "short" }).format(count);
}

/** Return a past moment as people say it: "now", "20 seconds ago", "3 minutes ago". */
export function ago(moment, language) {
  const seconds = since(moment);
  const [size, unit] = [[86_400, "day"], [3_600, "hour"], [60, "minute"]].find(([size]) => seconds >= size) ?? [1, "second"];
  // By tens: what changes with every second asks to be looked at.
  const count = unit === "second" ? 10 * Math.floor(seconds / 10) : Math.floor(seconds / size);
  return new Intl.RelativeTimeFormat(language, { numeric: "auto" }).format(-count, unit);
}

/** Wait so many milliseconds; a signal ends the wait early. */
export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    signal.addEventListener("abort", end);
  });
}
