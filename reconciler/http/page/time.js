// The server's time, and times and durations in words.

let ahead = 0; // milliseconds by which the server's clock is ahead of ours

/** Set the clock by an answer: the server wrote its time about halfway between `sent` and `received`. */
export function learnServerTime(serverTime, sent, received) {
  const theirs = Date.parse(serverTime ?? "");
  if (!Number.isNaN(theirs)) ahead = theirs - (sent + received) / 2;
}

/** Return the server's time now, in milliseconds. */
export function now() {
  return Date.now() + ahead;
}

/** Return how many seconds ago this was by the server's clock, at least 0. */
export function since(moment) {
  return Math.max(0, (now() - Date.parse(moment)) / 1000);
}

/** Return a duration in words: seconds up to two minutes, then minutes, then hours and days. */
export function span(seconds, language) {
  const [size, unit] = [[86_400, "day"], [3_600, "hour"], [60, "minute"]].find(([size]) => seconds >= 2 * size) ?? [1, "second"];
  const count = Math.round(seconds / size);
  return new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "short" }).format(count);
}

/** Return a past moment in words: "now", "20 seconds ago", "3 minutes ago". */
export function ago(moment, language) {
  const seconds = since(moment);
  const [size, unit] = [[86_400, "day"], [3_600, "hour"], [60, "minute"]].find(([size]) => seconds >= size) ?? [1, "second"];
  // In steps of ten: a text that changes every second distracts.
  const count = unit === "second" ? 10 * Math.floor(seconds / 10) : Math.floor(seconds / size);
  return new Intl.RelativeTimeFormat(language, { numeric: "auto" }).format(-count, unit);
}

/** Wait for so many milliseconds, or until the signal aborts. */
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
