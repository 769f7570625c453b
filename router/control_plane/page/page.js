"use strict";
// Asks /v1/loads and /admin/decisions, and shows what they tell.  What comes with the figures is
// foreign: it is put in as text, never as markup.  The figures are those of `levelhead top`
// (router/top/window.py): a front door is compared with itself in the same life.

const LOOK_MS = 1000, LIMIT_MS = 5000, MOST_WAIT_MS = 15000, DECISIONS_EVERY = 2;
const RATE_S = 5, LATENCY_S = 60, HISTORY = 300, FEW = 32, LARGE = 1.5;
const LATENCIES = [["ttft_s", "Time to first token"], ["inter_token_s", "Between tokens"], ["end_to_end_s", "Whole answer"]];

const $ = id => document.getElementById(id);
const looks = [], history = [], states = new Map(), rows = new Map();
let last = null, lastAt = 0, failures = 0, timer = 0, paused = false, showAll = false, numLooks = 0;
let lost = "", restartedAt = -Infinity, told = "", refused = null, asking = false;

// Words

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const some = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });
const count = value => value == null ? "–" : whole.format(value);
const rate = value => value == null ? "–" : value < 99.95 ? some.format(value) : whole.format(value);
const seconds = value => value == null ? "–" : value < 0.01 ? `${(value * 1e3).toFixed(1)} ms`
  : value < 1 ? `${(value * 1e3).toFixed(0)} ms` : `${value.toFixed(1)} s`;
const things = (number, thing) => `${count(number)} ${thing}${number === 1 ? "" : "s"}`;

function put(element, text) { if (element.textContent !== text) element.textContent = text; }
function make(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}
// For a screen reader: only what has changed, and no figures.
function say(text) { if (text !== told) { told = text; put($("said"), text); } }

// Asking

function keep(name, value) { try { sessionStorage.setItem(name, value); } catch { kept[name] = value; } }
function key(name) { try { return sessionStorage.getItem(name) || kept[name]; } catch { return kept[name]; } }
const kept = {};

async function ask(path, bearer) {
  const headers = bearer ? { Authorization: `Bearer ${bearer}` } : {};
  const answer = await fetch(path, { headers, cache: "no-store", credentials: "omit", redirect: "error", signal: AbortSignal.timeout(LIMIT_MS) });
  let body = null;
  try { body = await answer.json(); } catch { /* said below */ }
  return { status: answer.status, body, said: body?.error?.message ?? `status ${answer.status}` };
}

async function look() {
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  try {
    const answer = await ask("/v1/loads?front_doors=true", key("levelhead-key"));
    if (answer.status === 401) return wantKey();
    if (answer.status !== 200 || !Array.isArray(answer.body?.loads)) throw new Error(answer.said);
    take(answer.body);
    if (numLooks++ % DECISIONS_EVERY === 0) await lookAtDecisions();
  } catch (error) {
    miss(error);
  } finally { asking = false; }
  if (!paused && !document.hidden && $("key-form").hidden) timer = setTimeout(look, Math.min(MOST_WAIT_MS, LOOK_MS * 2 ** failures));
}

function wantKey() {
  const before = key("levelhead-key");
  if ($("key-form").hidden) { $("key-form").hidden = false; $("key").focus(); }
  say(before ? "This key is refused: another one is needed" : "An API key is needed");
  if (last) lose("a key is needed");
}

function take(loads) {
  const doors = loads.front_doors, before = last?.front_doors, at = performance.now() / 1e3;
  if (doors && before && doors.instance_epoch !== before.instance_epoch) { restartedAt = at; looks.length = 0; refused = null; }
  if (doors) looks.push({ at, doors });
  while (looks.length > 2 && at - looks[1].at >= LATENCY_S) looks.shift();
  history.push({ at, imbalance: loads.imbalance });
  while (history.length > HISTORY) history.shift();
  if (lost) say("The instance answers again");
  last = loads; lastAt = at; lost = ""; failures = 0;
  $("key-form").hidden = true;
  show();
}

function miss(error) {
  failures = Math.min(failures + 1, 5);
  const why = error.name === "TimeoutError" ? "no answer in 5 s" : error instanceof TypeError ? "no connection" : error.message;
  if (!lost) say(`Nothing is heard of the instance: ${why}`);
  lose(why);
}

// What is shown is old from now on.
function lose(why) {
  if (!lost) history.push({ at: performance.now() / 1e3, imbalance: null });
  lost = why;
  showTrouble();
}

// Rates and latencies

function since(span) {
  if (looks.length < 2) return null;
  const now = looks[looks.length - 1];
  return [looks.findLast(look => now.at - look.at >= span) ?? looks[0], now];
}
function pairs([then, now]) {
  const before = new Map(then.doors.doors.map(door => [`${door.slot} ${door.epoch}`, door]));
  return now.doors.doors.map(door => [before.get(`${door.slot} ${door.epoch}`), door]).filter(([door]) => door);
}
function answers(door, least) {
  return Object.entries(door.responses).reduce((sum, [status, number]) => sum + (Number(status) >= least ? number : 0), 0);
}
function rates() {
  const span = since(RATE_S);
  if (!span) return null;
  const elapsed = Math.max(1e-9, span[1].at - span[0].at), grown = pairs(span);
  const sum = of => grown.reduce((all, [a, b]) => all + of(b) - of(a), 0) / elapsed;
  return {
    requests: sum(door => answers(door, 0)), errors: sum(door => answers(door, 500)),
    prompt: sum(door => door.prompt_tokens), streamed: sum(door => door.streamed_tokens),
    to: rank => Math.max(0, sum(door => door.dispatches[rank] ?? 0)),
  };
}
function quantile(bounds, counts, share) {
  const total = counts.reduce((a, b) => a + b, 0), wanted = share * total;
  if (!total) return null;
  let below = 0, lower = 0;
  for (let i = 0; i < bounds.length; i++) {
    if (counts[i] && below + counts[i] >= wanted) return lower + (bounds[i] - lower) * (wanted - below) / counts[i];
    below += counts[i]; lower = bounds[i];
  }
  return lower;
}
function latency(name) {
  const span = since(LATENCY_S), found = span ? pairs(span) : [];
  if (!found.length) return [null, null, null];
  const { bounds, counts } = found[0][1][name];
  const grown = counts.map((_, i) => found.reduce((sum, [a, b]) => sum + b[name].counts[i] - a[name].counts[i], 0));
  return [0.5, 0.95, 0.99].map(share => quantile(bounds, grown, share));
}

// Showing

function show() {
  const doors = last.front_doors, found = rates();
  put($("instance"), doors?.instance ?? "");
  document.title = `levelhead ${doors?.instance ?? ""} ${last.imbalance.toFixed(2)}`;
  const ready = last.loads.filter(group => group.state === "ready").length;
  const about = [things(last.loads.length, "group"), `${count(ready)} ready`];
  if (doors) about.push(`${count(doors.doors.length)} of ${things(doors.num_front_doors, "front door")}`, `method ${doors.method}`);
  put($("about"), about.join(" · "));
  put($("imbalance"), last.imbalance.toFixed(2));
  $("imbalance").className = last.imbalance >= LARGE ? "large" : "";
  showHistory(); showGroups(found); showRates(found); showTrouble(); sayStates();
}

function sayStates() {
  const changed = [];
  for (const group of last.loads) {
    const before = states.get(group.dp_rank);
    if (before && before !== group.state) changed.push(`group ${group.dp_rank} is ${group.state}`);
    states.set(group.dp_rank, group.state);
  }
  if (changed.length) say(changed.length > 4 ? `${changed.length} groups have changed state` : changed.join(", "));
}

function showTrouble() {
  const now = performance.now() / 1e3, parts = [], again = $("key-form").hidden ? " It is asked again." : "";
  if (lost) parts.push(last ? `No figures for ${Math.round(now - lastAt)} s: ${lost}. What is shown is old.${again}` : `No figures yet: ${lost}.${again}`);
  else if (now - restartedAt < 30) parts.push("The instance was started anew.");
  const doors = last?.front_doors;
  if (!lost && doors && doors.doors.length < doors.num_front_doors) parts.push(`${doors.doors.length} of ${doors.num_front_doors} front doors answer.`);
  $("trouble").hidden = !parts.length;
  put($("trouble"), parts.join(" "));
  document.body.classList.toggle("old", Boolean(lost));
}

function showHistory() {
  const known = history.filter(each => each.imbalance != null).map(each => each.imbalance);
  const most = Math.max(2, ...known), to = history[history.length - 1].at, from = Math.min(history[0].at, to - 30);
  const point = each => `${(300 * (each.at - from) / (to - from)).toFixed(1)},${(58 - 54 * (each.imbalance - 1) / (most - 1)).toFixed(1)}`;
  const lines = [[]];
  for (const each of history) each.imbalance == null ? lines.push([]) : lines[lines.length - 1].push(point(each));
  $("history-lines").replaceChildren(...lines.filter(line => line.length).map(line => {
    const drawn = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    drawn.setAttribute("points", line.join(" "));
    return drawn;
  }));
  put($("history-from"), `${Math.round(to - from)} s ago`);
  put($("history-top"), `top of the scale: ${most.toFixed(2)}`);
  put($("history-told"), `Imbalance over the last ${Math.round(to - from)} s: between ${Math.min(...known).toFixed(2)} and ${Math.max(...known).toFixed(2)}`);
}

// A backend's holding tokens have what is in flight in them.
const tokens = group => group.load_tokens ?? (group.holding_tokens ?? 0) + group.in_flight_tokens;

function isStale(group) {
  const doors = last.front_doors;
  return Boolean(doors) && (doors.doors.some(door => door.stale_groups.includes(group.dp_rank)) || group.age_s > doors.max_load_age_s);
}

function showGroups(found) {
  const isWell = group => group.state === "ready" && !isStale(group) && !group.condition;
  let shown = [...last.loads];
  if ($("order").value === "worst" || (shown.length > FEW && !showAll))
    shown.sort((a, b) => isWell(a) - isWell(b) || tokens(b) - tokens(a) || a.dp_rank - b.dp_rank);
  const hidden = showAll ? [] : shown.splice(FEW);
  if ($("order").value === "number") shown.sort((a, b) => a.dp_rank - b.dp_rank);
  const full = Math.max(1, ...last.loads.map(tokens));
  const drawn = shown.map(group => showRow(group, full, found));
  const body = $("rows");
  drawn.forEach((row, i) => { if (body.children[i] !== row) body.insertBefore(row, body.children[i] ?? null); });
  while (body.children.length > drawn.length) body.lastChild.remove();
  for (const rank of rows.keys()) if (!last.loads.some(group => group.dp_rank === rank)) rows.delete(rank);
  $("all").hidden = last.loads.length <= FEW;
  $("more").hidden = !hidden.length;
  put($("more"), hidden.length ? `and ${things(hidden.length, "group")} more, ${count(Math.min(...hidden.map(tokens)))} to ${count(Math.max(...hidden.map(tokens)))} tokens each` : "");
}

function newRow(rank) {
  const row = make("tr"), head = make("th", String(rank)), bar = make("div", undefined, "bar");
  head.scope = "row";
  bar.setAttribute("aria-hidden", "true");
  bar.append(make("span", undefined, "computed"), make("span", undefined, "waiting"), make("span", undefined, "in-flight"));
  const cell = make("td", undefined, "bar-cell");
  cell.append(bar);
  row.append(head, make("td"), cell, ...Array.from({ length: 8 }, () => make("td")));
  rows.set(rank, row);
  return row;
}

function showRow(group, full, found) {
  const row = rows.get(group.dp_rank) ?? newRow(group.dp_rank), cells = row.children;
  const holding = group.holding_tokens ?? 0, waiting = Math.min(holding, group.num_waiting_uncached_tokens ?? 0);
  const stale = isStale(group);
  put(cells[1], group.state + (group.condition ? ` (${group.condition})` : ""));
  cells[1].className = `state-${group.state}`;
  [holding - waiting, waiting, Math.max(0, tokens(group) - holding)].forEach((part, i) => {
    cells[2].firstChild.children[i].style.setProperty("width", `${100 * part / full}%`);
  });
  const figures = [count(group.holding_tokens), count(group.num_waiting_uncached_tokens), count(group.in_flight_tokens),
    count(group.num_running_reqs), count(group.num_waiting_reqs), rate(found?.to(group.dp_rank)),
    seconds(group.step_time_ms == null ? null : group.step_time_ms / 1e3), seconds(group.age_s) + (stale ? " (too old)" : "")];
  figures.forEach((figure, i) => put(cells[i + 3], figure));
  cells[10].className = stale ? "stale" : "";
  return row;
}

function showRates(found) {
  const doors = last.front_doors?.doors ?? [], sum = of => doors.length ? doors.reduce((all, door) => all + of(door), 0) : null;
  const figures = [["Requests per s", rate(found?.requests)], ["Of those failed (5xx)", rate(found?.errors)],
    ["Prompt tokens per s", rate(found?.prompt)], ["Streamed tokens per s", rate(found?.streamed)],
    ["Open requests", count(sum(door => door.open_requests))], ["Waiting in front doors", count(sum(door => door.waiting_requests))]];
  const list = $("rates");
  figures.forEach(([word, figure], i) => {
    if (!list.children[i]) { const pair = make("div"); pair.append(make("dt", word), make("dd")); list.append(pair); }
    put(list.children[i].lastChild, figure);
  });
  LATENCIES.forEach(([name, word], i) => {
    const row = $("latencies").children[i] ?? $("latencies").appendChild(newLatency(word));
    latency(name).forEach((value, j) => put(row.children[j + 1], seconds(value)));
  });
}

function newLatency(word) {
  const row = make("tr"), head = make("th", word);
  head.scope = "row";
  row.append(head, make("td"), make("td"), make("td"));
  return row;
}

// Decisions

async function lookAtDecisions() {
  const bearer = key("levelhead-admin-key") || key("levelhead-key") || "";
  if (bearer === refused) return; // until there is another one
  let why = "", found = [];
  try {
    const answer = await ask("/admin/decisions?limit=12", bearer);
    refused = answer.status === 401 ? bearer : null;
    if (answer.status === 200) found = answer.body?.decisions ?? [];
    else why = answer.status === 404 ? "This instance tells none." : answer.said;
    $("admin-form").hidden = answer.status !== 401;
    if (!found.length && !why) why = "None yet.";
  } catch { why = "They could not be asked for."; }
  put($("no-decisions"), why);
  $("decisions-region").hidden = !found.length;
  $("decisions").replaceChildren(...found.map(decisionRow));
}

function decisionRow(decision) {
  const row = make("tr"), age = last.timestamp - Date.parse(decision.decided_at) / 1e3;
  const again = decision.attempt > 1 ? `attempt ${decision.attempt}: ` : "";
  row.append(make("td", Number.isFinite(age) ? `${seconds(Math.max(0, age))} ago` : ""), make("td", String(decision.dp_rank ?? "")),
    make("td", count(decision.prompt_tokens)), make("td", again + String(decision.reason ?? "")), make("td", String(decision.dp_balance_id ?? "")));
  return row;
}

// People

function form(id, input, name) {
  $(id).addEventListener("submit", event => {
    event.preventDefault();
    keep(name, $(input).value);
    $(input).value = "";
    $(id).hidden = true;
    numLooks = 0;
    look();
  });
}
form("key-form", "key", "levelhead-key");
form("admin-form", "admin-key", "levelhead-admin-key");
$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  say(paused ? "Paused" : "Goes on");
  paused ? clearTimeout(timer) : look();
});
$("all").addEventListener("click", () => {
  showAll = !showAll;
  $("all").setAttribute("aria-pressed", String(showAll));
  if (last) showGroups(rates());
});
$("order").addEventListener("change", () => { if (last) showGroups(rates()); });
document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) look(); });
look();
