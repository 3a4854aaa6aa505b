"use strict";
(() => {
  const PERIOD_MS = 1000, PATIENCE_MS = 8000, NEWS_MS = 10000;
  const THIN = "\u202f";
  const SVG = "http://www.w3.org/2000/svg";
  const $ = (id) => document.getElementById(id);
  const PHASES = { starting: "Starting", taking: "Taking messages", paused: "Paused", draining: "Draining", ended: "Ended" };
  const FATES = {
    retry: "comes back later", poison: "dead-letter queue", lost: "lost to another worker", released: "given back",
    done: "done all the same", filtered: "filtered",
  };
  const STATES = {
    waiting: "waiting for its turn", opening: "opening", verifying: "comparing checksums", indexing: "indexing codestreams",
    streaming: "masking", closing: "closing the file", done: "done", skipped: "was there", failed: "failed",
  };

  // Texts come from strangers: they only ever become text nodes and attributes, never markup.
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
    element.append(...children.filter((child) => child !== null));
    return element;
  };
  const draw = (tag, attributes, ...children) => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const say = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  const colour = (text) => (/^#[0-9a-f]{6}$/.test(text) ? text : "#808080");
  const swatch = (fill) => {
    const picture = draw("svg", { class: "swatch", viewBox: "0 0 1 1", "aria-hidden": "true" });
    picture.append(draw("rect", { width: 1, height: 1, fill }));
    return picture;
  };

  const count = (n) => String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, THIN);
  const short = (n) => (n >= 100 ? count(n) : n >= 10 ? n.toFixed(1) : n.toFixed(2).replace(/\.?0+$/, ""));
  const duration = (s) => {
    if (s < 60) return `${s < 10 && !Number.isInteger(s) ? s.toFixed(1) : Math.round(s)}${THIN}s`;
    const minutes = Math.floor(s / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
    if (minutes < 60) return `${minutes}${THIN}min ${String(Math.floor(s % 60)).padStart(2, "0")}${THIN}s`;
    if (hours < 48) return `${hours}${THIN}h ${String(minutes % 60).padStart(2, "0")}${THIN}min`;
    return `${days}${THIN}d ${hours % 24}${THIN}h`;
  };
  const percent = (share) => (share > 0 && share < 0.001 ? `<${THIN}0.1${THIN}%` : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}${THIN}%`);
  const words = (name) => {
    const text = name.replaceAll("_", " ").toLowerCase().replace("semi transparent", "semi-transparent").trim();
    return text ? text[0].toUpperCase() + text.slice(1) : name;
  };
  const NAME = /^(S2[A-Z])_MSI(L1C|L2A)_(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(?:_N\d{4})?_R\d{3}_T(\d\d[A-Z]{3})_/;
  const title = (product) => {
    const f = NAME.exec(product);
    return f ? [`${f[9]} · ${f[2]}`, `${f[3]}-${f[4]}-${f[5]} ${f[6]}:${f[7]} · ${f[1]}`] : [product, ""];
  };
  const clock = (at) => at.slice(11, 19);

  const heading = (product) => {
    const [what, when] = title(product);
    return make("div", { class: "title" }, make("h3", {}, what), when ? make("time", {}, when) : null);
  };

  // Lists keep their elements between two looks: pictures are not fetched anew, the reader's place is not lost.
  const sync = (container, items, create, update = () => {}) => {
    const known = new Map([...container.children].map((element) => [element.dataset.key, element]));
    let before = container.firstElementChild;
    for (const item of items) {
      const key = String(item.id);
      let element = known.get(key);
      known.delete(key);
      if (!element) {
        element = create(item);
        element.dataset.key = key;
      }
      if (element === before) before = before.nextElementSibling;
      else container.insertBefore(element, before);
      update(element, item);
    }
    for (const element of known.values()) element.remove();
  };

  const paint = (canvas, grid) => {
    const style = getComputedStyle(document.documentElement);
    const [empty, unread, waiting] = ["--empty", "--unread", "--waiting"].map((name) => style.getPropertyValue(name).trim());
    const colours = new Map(grid.classes.map((c) => [c.code, colour(c.colour)]));
    const side = Math.max(grid.rows, grid.cols);
    const cell = Math.max(3, Math.floor((Math.min(26 * 16, 3 * canvas.clientWidth || 400) * 1.2) / side));
    const width = grid.cols * cell + 2 * cell, height = grid.rows * cell + 2 * cell;
    if (canvas.width !== width || canvas.height !== height) {
      Object.assign(canvas, { width, height });
      canvas.style.setProperty("--cols", String(width));
      canvas.style.setProperty("--rows", String(height));
    }
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    const gap = Math.max(1, Math.round(cell / 9)), size = cell - gap;
    [...grid.cells].forEach((code, index) => {
      const x = cell + (index % grid.cols) * cell, y = cell + Math.floor(index / grid.cols) * cell;
      pen.fillStyle = code === "-" ? empty : colours.get(code) ?? unread;
      pen.fillRect(x, y, size, size);
      if (code === "~") {
        const dot = Math.max(1, Math.round(size * 0.4)), inset = Math.floor((size - dot) / 2);
        pen.fillStyle = waiting;
        pen.fillRect(x + inset, y + inset, dot, dot);
      }
    });
  };

  const createJob = (job) => {
    const part = (name, tag = "p") => make(tag, { "data-part": name });
    const canvas = make("canvas", { role: "img", "data-part": "grid" });
    const said = make("div", { class: "said" },
      heading(job.product), make("p", { class: "code" }, job.product),
      make("progress", { "data-part": "progress", "aria-label": "Tiles done" }),
      make("div", { class: "numbers" }, part("tiles", "b"), part("flight", "span"), part("speed", "span"), part("left", "span")),
      make("ul", { class: "legend", "data-part": "legend" }), make("p", { class: "note", "data-part": "note", hidden: "" }));
    return make("article", { class: "job", "aria-label": `In work: ${job.product}` }, make("div", { class: "board" }, canvas), said);
  };
  const updateJob = (element, job) => {
    const part = (name) => element.querySelector(`[data-part="${name}"]`);
    const { total, done, in_flight: flight } = job.tiles;
    const bar = part("progress");
    bar.max = Math.max(1, total);
    if (total) bar.value = done;
    else bar.removeAttribute("value");
    say(part("tiles"), total ? `${count(done)} of ${count(total)} tiles` : STATES[job.state] ?? job.state);
    say(part("flight"), flight ? `${count(flight)} in flight` : job.state === "closing" ? STATES.closing : "");
    say(part("speed"), job.megapixels_per_s ? `${short(job.megapixels_per_s)}${THIN}Mpx/s` : "");
    say(part("left"), job.seconds_left === null ? `${duration(job.seconds)} so far` : job.seconds_left < 1 ? "a moment left" : `${duration(job.seconds_left)} left`);
    const again = job.received > 1 ? `Delivery ${job.received} of this message. ` : "";
    part("note").hidden = !(again || job.note);
    say(part("note"), again + (job.note ?? ""));
    if (!job.grid) return;
    const rows = [...job.grid.classes, { code: "-", name: "No data", tiles: job.grid.empty }].filter((c) => c.tiles);
    sync(part("legend"), rows.map((c) => ({ ...c, id: c.code })),
      (c) => make("li", {}, swatch(c.code === "-" ? "#8c959b" : colour(c.colour)), make("span", {}, words(c.name)), make("b", {})),
      (li, c) => say(li.lastElementChild, count(c.tiles)));
    const canvas = part("grid");
    canvas.setAttribute("aria-label", `Tiles: ${done} of ${total} done; ` + rows.map((c) => `${words(c.name)} ${c.tiles}`).join(", "));
    paint(canvas, job.grid);
  };

  const createResult = (result) => {
    const look = result.quicklook
      ? make("a", { class: "look", href: result.quicklook },
          make("img", { src: result.quicklook, alt: `Mask of ${result.product}`, loading: "lazy", width: 560, height: 560 }))
      : make("div", { class: "look nothing" }, result.status === "found" ? "was there already" : "no picture kept");
    const stack = draw("svg", { class: "stack", viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" });
    let x = 0;
    for (const c of result.classes) {
      stack.append(draw("rect", { x, width: 100 * c.share, height: 1, fill: colour(c.colour) }));
      x += 100 * c.share;
    }
    const largest = [...result.classes].sort((a, b) => b.share - a.share).slice(0, 3);
    const shares = largest.map((c) => `${words(c.name)} ${percent(c.share)}`).join(", ");
    const how = result.status === "found" ? "found finished" : `${duration(result.seconds)}, ${count(result.tiles)} tiles`;
    const again = result.retries ? `, ${count(result.retries)} sent again` : "";
    return make("li", { class: "result" }, look, heading(result.product), result.classes.length ? stack : null,
      shares ? make("p", { class: "shares" }, shares) : null, make("p", {}, `${clock(result.at)} UTC · ${how}${again}`),
      result.output === null ? null : make("p", { class: "code", title: result.output }, result.output));
  };

  const createFailure = (failure) => make("li", {},
    make("p", { class: "when" }, `${failure.at.slice(0, 10)} ${clock(failure.at)} UTC`),
    make("div", {}, make("p", { class: "kind" }, failure.error ?? "Message not done"), make("p", { class: "why" }, failure.reason || "no reason given"),
      make("p", { class: "code" }, failure.product ?? `message ${failure.message}`)),
    make("p", { class: "fate" }));
  const updateFailure = (element, failure) => {
    const fate = element.lastElementChild;
    fate.className = `fate ${failure.outcome ?? ""}`;
    say(fate, failure.outcome === null ? "being settled" : FATES[failure.outcome] ?? failure.outcome);
  };

  const figures = (s) => {
    const w = s.worker, t = s.throughput;
    const age = w.queue_age_s === null ? "" : `last one waited ${duration(w.queue_age_s)}`;
    return [
      { id: "products", dt: "Products", dd: short(t.last_5_min.products_per_h), unit: "an hour", more: `${short(t.last_60_min.products_per_h)} over the last hour` },
      { id: "pixels", dt: "Reading", dd: short(t.last_5_min.megapixels_per_s), unit: "Mpx/s", more: `${short(t.last_60_min.megapixels_per_s)} over the last hour` },
      { id: "queue", dt: "Queue", dd: w.queue_waiting === null ? "–" : count(w.queue_waiting), unit: "waiting", more: [w.queue_in_work === null ? "" : `${count(w.queue_in_work)} in work`, age].filter(Boolean).join(", ") },
      { id: "slots", dt: "Slots", dd: `${w.busy} of ${w.slots}`, unit: "busy", more: w.pending === null ? "" : `${count(w.pending)} pending in Triton` },
    ];
  };
  const showFigures = (s) => sync($("figures"), figures(s),
    (f) => make("div", {}, make("dt", {}, f.dt), make("dd", {}, make("span", {}), " ", make("small", {}, f.unit)), make("dd", { class: "more soft" })),
    (element, f) => {
      say(element.querySelector("dd span"), f.dd);
      say(element.lastElementChild, f.more);
    });

  let drawn = "";
  const showHistory = (minutes) => {
    const rates = minutes.map((m) => m.megapixels / 60), most = Math.max(...rates);
    const state = JSON.stringify(minutes);
    if (state === drawn) return;
    drawn = state;
    const products = minutes.reduce((sum, m) => sum + m.products, 0);
    const picture = draw("svg", { viewBox: "0 0 600 100", preserveAspectRatio: "none", role: "img",
      "aria-label": `Megapixels per second in each of the last 60 minutes, at most ${short(most)}; ${products} products done` });
    rates.forEach((rate, i) => {
      if (!rate) return;
      const height = Math.max(1.5, (100 * rate) / most);
      picture.append(draw("rect", { x: 10 * i + 1, y: 100 - height, width: 8, height }));
    });
    $("history").replaceChildren(picture);
    say($("history-most"), most ? `highest ${short(most)}` : "nothing yet");
  };

  const showTotals = (totals) => {
    const order = { messages: ["done", "filtered", "retry", "poison", "released", "lost"], products: ["done", "found", "failed", "stopped"], retries: [] };
    const names = { messages: "Messages", products: "Products", retries: "Sent again, by cause" };
    const groups = Object.keys(names).map((group) => {
      const rows = [...new Set([...order[group], ...Object.keys(totals[group])])].map((id) => ({ id, n: totals[group][id] ?? 0 }));
      return { id: group, rows: rows.length ? rows : [{ id: "Nothing", n: 0 }] };
    });
    sync($("totals"), groups, (g) => make("div", {}, make("h3", {}, names[g.id]), make("dl", {})), (element, g) => {
      const group = g.id;
      const rows = g.rows.flatMap((row) => [{ id: `${row.id} name`, text: group === "retries" ? row.id : words(row.id) }, { id: `${row.id} count`, text: count(row.n) }]);
      sync(element.lastElementChild, rows, (row) => make(row.id.endsWith(" name") ? "dt" : "dd"), (cell, row) => say(cell, row.text));
    });
  };

  const showHead = (s) => {
    const w = s.worker;
    say($("name"), s.name);
    say($("facts"), `${s.model} · up ${duration(s.uptime_s)}`);
    say($("version"), `kappamask-stream ${s.version}`);
    say($("time"), `as of ${s.now.slice(0, 10)} ${clock(s.now)} UTC`);
    $("phase").dataset.phase = w.phase;
    say($("phase-text"), PHASES[w.phase] ?? w.phase);
    const quiet = w.told_s_ago > 60 && w.phase !== "starting" ? `The worker has said nothing for ${duration(w.told_s_ago)}.` : "";
    const text = [w.reason ? `${PHASES[w.phase] ?? w.phase}: ${w.reason}` : "", quiet].filter(Boolean).join(" ");
    $("reason").hidden = !text;
    say($("reason"), text);
    // The worker itself answers, or nothing would be here: of it only what is wrong is news.
    const parts = Object.entries(s.ready).map(([id, why]) => ({ id, why })).filter((part) => part.id !== "worker" || part.why !== null);
    sync($("parts"), parts, () => make("li"), (li, part) => {
      li.className = part.why === null ? "" : "out";
      say(li, part.why === null ? `${words(part.id)} answers` : `${words(part.id)}: ${part.why}`);
    });
    document.title = `${w.busy ? `(${w.busy}) ` : ""}${s.name} · kappamask-stream`;
  };

  // Screen readers hear of what changed, not of every second.
  let heard = null, heardAt = -Infinity;
  const tell = (s) => {
    const state = { phase: s.worker.phase, done: (s.totals.products.done ?? 0) + (s.totals.products.found ?? 0), failed: s.totals.products.failed ?? 0 };
    const now = performance.now();
    if (heard === null) heard = state;
    if (now - heardAt < NEWS_MS) return;
    const news = [];
    if (state.phase !== heard.phase) news.push(PHASES[state.phase] ?? state.phase);
    if (state.done > heard.done) news.push(`${state.done - heard.done} more done`);
    if (state.failed > heard.failed) news.push(`${state.failed - heard.failed} more failed`);
    if (!news.length) return;
    say($("news"), news.join(", "));
    [heard, heardAt] = [state, now];
  };

  const show = (s) => {
    showHead(s);
    showFigures(s);
    showHistory(s.throughput.minutes);
    for (const list of ["running", "results", "failures"]) {
      $(`${list}-none`).hidden = s[list].length > 0;
      say($(`${list}-count`), s[list].length ? String(s[list].length) : "");
    }
    sync($("running"), s.running, createJob, updateJob);
    sync($("results"), s.results, createResult);
    sync($("failures"), s.failures, createFailure, updateFailure);
    showTotals(s.totals);
    tell(s);
  };

  let answered = null;
  const look = async () => {
    try {
      const answer = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      show(await answer.json());
      answered = new Date();
      $("silence").hidden = true;
    } catch {
      $("phase").dataset.phase = "silent";
      say($("phase-text"), "No answer");
      $("silence").hidden = false;
      say($("silence"), answered === null ? "The worker does not answer." : `The worker has not answered since ${answered.toLocaleTimeString()}: what is shown is from then.`);
    }
  };
  const again = async () => {
    if (!document.hidden) await look();
    setTimeout(again, PERIOD_MS);
  };
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
  again();
})();
