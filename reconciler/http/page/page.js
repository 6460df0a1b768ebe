// The page: signing in, the filter, and keeping the list of generations up to date.

import { Api, Refused } from "./api.js";
import { standing } from "./card.js";
import { Findings } from "./findings.js";
import { Cards } from "./list.js";
import { Live } from "./live.js";
import { cleaned, keep, recall, tokenFromAddress } from "./session.js";
import { offer, say, text, turn } from "./texts.js";

const PAGE_SIZE = 24;
const MAX_SINGLE_REQUESTS = 6;
const QUERIES = { working: { status: "working" }, ready: { status: "ready" }, failed: { status: "failed" }, stuck: { stuck: "true" } };

const at = (id) => document.getElementById(id);
const single = new URLSearchParams(location.search).get("id");

let api = null;
let live = null;
let operator = false;
let cursor = null; // where the next older page begins
let view = new AbortController(); // aborts the requests of the current view when the filter changes
let connection = null;

const cards = new Cards(
  at("list"),
  {
    single: single !== null,
    operator: () => operator,
    link: (id, url) => api.link(id, url),
    story: async (id) => (await api.one(id)).story,
  },
  (sentence) => (at("said").textContent = sentence),
);

const findings = new Findings(at("findings"));

function enter(token, wrong = "") {
  const clean = token === null ? null : cleaned(token);
  leave(clean === null && token !== null ? text("wrong") : wrong);
  if (clean === null) return;
  keep("token", clean);
  at("enter").hidden = true;
  at("history").hidden = at("leave").hidden = false;
  api = new Api(clean);
  live = new Live(api, { changed, refresh, busy: () => cards.working().length > 0, refused: () => enter(null, text("wrong")), state });
}

function leave(wrong = "") {
  live?.stop();
  view.abort();
  view = new AbortController();
  keep("token", null);
  api = live = cursor = null;
  operator = false;
  cards.clear();
  findings.clear();
  at("list").ariaBusy = "true";
  at("enter").hidden = false;
  at("history").hidden = at("leave").hidden = at("connection").hidden = at("stuck").hidden = at("empty").hidden = true;
  at("wrong").textContent = wrong;
  at("token").value = "";
  at("token").ariaInvalid = String(Boolean(wrong));
  if (wrong) at("token").focus();
}

function chosen() {
  return document.querySelector("input[name=filter]:checked").value;
}

/** Fetch the newest page, and the generations in progress further down. */
async function refresh() {
  const { signal } = view;
  if (single !== null) return refreshOne(signal);
  const page = await api.list({ ...QUERIES[chosen()], limit: PAGE_SIZE }, signal);
  if (signal.aborted) return;
  setOperator(page.operator === true);
  const first = cards.size === 0;
  const onPage = new Set(page.generations.map((item) => item.id));
  const further = cards.working().filter((id) => !onPage.has(id));
  if (page.generations.length || page.nextCursor === null) cards.putPage(page.generations, page.nextCursor === null);
  if (first) cursor = page.nextCursor;
  await Promise.all(further.filter((id) => cards.has(id)).slice(0, MAX_SINGLE_REQUESTS).map((id) => refreshItem(id, signal)));
  updateList();
}

async function refreshOne(signal) {
  await refreshItem(single, signal);
  if (!signal.aborted) updateList();
}

/** Fetch one generation, and show it where it belongs. */
async function refreshItem(id, signal) {
  try {
    const item = await api.one(id, signal);
    if (signal.aborted) return;
    if (item.story) setOperator(true);
    if (belongs(item)) cards.put(item);
    else cards.drop(id);
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 404) throw error;
    cards.drop(id);
  }
}

function belongs(item) {
  if (single !== null) return item.id === single;
  const filter = chosen();
  return filter === "" || filter === standing(item) || (filter === "stuck" && cards.has(item.id) && standing(item) === "working");
}

const changedIds = new Set();

/** Note a changed generation; many changes at once cause one fetch of the newest page. */
function changed(id) {
  if (single !== null && id !== single) return;
  changedIds.add(id);
  if (changedIds.size === 1) setTimeout(refreshChanged, 80);
}

async function refreshChanged() {
  const ids = [...changedIds];
  changedIds.clear();
  const { signal } = view;
  try {
    if (ids.length > MAX_SINGLE_REQUESTS) await refresh();
    else await Promise.all(ids.map((id) => refreshItem(id, signal)));
    updateList();
  } catch {
    live?.refreshNow(); // which shows the error
  }
}

function setOperator(isOperator) {
  if (operator === isOperator) return;
  operator = isOperator;
  at("stuck").hidden = !operator || single !== null;
  cards.clear();
}

function updateList() {
  at("list").ariaBusy = "false";
  at("empty").hidden = cards.size > 0;
  at("nothing").textContent = text(single !== null ? "missing" : chosen() ? "nothingLike" : "nothing");
  at("older").hidden = cursor === null || single !== null;
}

function state(word) {
  if (connection === "away" && word !== "away") cards.retry();
  connection = word;
  at("connection").hidden = false;
  at("connection").dataset.state = word;
  at("connection").firstElementChild.textContent = text(word);
  at("notice").hidden = word !== "away";
  at("notice").textContent = text("awayNotice");
}

async function older() {
  const { signal } = view;
  at("older").disabled = true;
  try {
    const page = await api.list({ ...QUERIES[chosen()], limit: PAGE_SIZE, cursor }, signal);
    if (signal.aborted) return;
    cursor = page.nextCursor;
    for (const item of page.generations) cards.put(item);
    updateList();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) enter(null, text("wrong"));
  } finally {
    at("older").disabled = false;
  }
}

function filtered() {
  view.abort();
  view = new AbortController();
  cards.clear();
  cards.order = chosen() === "stuck" ? -1 : 1;
  cursor = null;
  at("list").ariaBusy = "true";
  at("empty").hidden = at("older").hidden = true;
  live?.refreshNow();
}

function speak() {
  say();
  offer(at("language"));
  document.title = text("title");
  at("heading").textContent = text(single !== null ? "single" : "heading");
  if (at("list").ariaBusy === "false") updateList();
  if (connection !== null) state(connection);
  cards.repaint();
}

at("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = at("token").value;
  if (token.trim()) enter(token);
  else leave(text("needed"));
});
at("leave").addEventListener("click", () => {
  leave();
  at("token").focus();
});
at("language").addEventListener("click", () => {
  turn();
  speak();
});
at("filter").addEventListener("change", filtered);
at("older").addEventListener("click", older);
addEventListener("hashchange", () => {
  const token = tokenFromAddress();
  if (token !== null) enter(token);
});
setInterval(() => {
  cards.tick();
  if (operator && !document.hidden) findings.update(api, view.signal);
}, 1000);

if (single !== null) {
  document.documentElement.dataset.view = "single";
  at("filter").hidden = true;
  at("all").hidden = false;
}
const token = tokenFromAddress() ?? recall("token");
speak();
enter(token);
