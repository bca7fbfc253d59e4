(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 10;
  const $ = (id) => document.getElementById(id);
  const state = { offset: 0, total: 0, open: null, asked: 0 };

  // What is shown comes from outside: it is only ever set as text.
  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  // As many digits as say something; the tables of this page are written by the same rule.
  function number(value) {
    const size = Math.abs(value);
    const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : 3;
    return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  }
  const ms = (ns) => number(ns / 1e6) + " ms";

  // Where requests come from: this file, or the server that `codesign view` is.
  function embedded() {
    const names = data.names;
    const requestId = names.indexOf("codesign.request.id");
    let texts = null;
    const entry = (d) => ({
      trace: d[0], span: d[1], name: names[d[2]], outcome: names[d[3]], scenario: names[d[4]],
      session: d[5], start_us: d[6], duration_ns: d[7], document: d,
    });
    function searchable(d) {
      const ids = new Set();
      for (const span of d[8]) {
        for (let i = 0; i < span[6].length; i += 2) if (span[6][i] === requestId) ids.add(span[6][i + 1]);
      }
      return [d[0], d[1], d[5], names[d[4]], ...ids].join("\n").toLowerCase();
    }
    const orders = {
      slowest: (a, b) => b[7] - a[7], latest: (a, b) => b[6] - a[6], earliest: (a, b) => a[6] - b[6],
    };
    return {
      list: async function (text, outcome, order, offset) {
        const wanted = text.toLowerCase();
        if (wanted && texts === null) texts = new Map(data.requests.map((d) => [d, searchable(d)]));
        const found = data.requests.filter((d) => (!outcome || names[d[3]] === outcome)
          && (!wanted || texts.get(d).includes(wanted)));
        found.sort(orders[order]);
        return { total: found.length, entries: found.slice(offset, offset + PAGE).map(entry) };
      },
      get: async (e) => ({ names: names, colours: data.colours, document: e.document }),
    };
  }

  function served() {
    async function json(path) {
      const answer = await fetch(path);
      if (!answer.ok) throw new Error((await answer.text()).split("\n")[0]);
      return answer.json();
    }
    return {
      list: (text, outcome, order, offset) => json("api/requests?" + new URLSearchParams(
        { text: text, outcome: outcome, order: order, offset: offset, limit: PAGE })),
      get: (e) => json("api/request/" + e.trace + "/" + e.span),
      state: () => json("api/state"),
    };
  }

  const source = data.requests ? embedded() : served();

  async function refresh() {
    const turn = ++state.asked;
    const text = $("text").value.trim();
    let found;
    try {
      found = await source.list(text, $("outcome").value, $("order").value, state.offset);
    } catch (error) {
      $("status").textContent = "The list cannot be had: " + error.message;
      return;
    }
    if (turn !== state.asked) return;  // typed on meanwhile
    state.total = found.total;
    $("list").tBodies[0].replaceChildren(...found.entries.map(row));
    const last = state.offset + found.entries.length;
    const many = found.total.toLocaleString("en-US") + (found.total === 1 ? " request" : " requests");
    $("status").textContent = found.total
      ? many + (text || $("outcome").value ? " found" : "") : "No request found.";
    $("page").textContent = found.total
      ? (state.offset + 1) + " to " + last + " of " + found.total.toLocaleString("en-US") : "";
    $("previous").disabled = state.offset === 0;
    $("next").disabled = last >= found.total;
    return found.entries;
  }

  function row(entry) {
    const button = make("button", {
      type: "button", "aria-label": "Show request " + entry.trace.slice(0, 8) + ", " + ms(entry.duration_ns),
    }, ms(entry.duration_ns));
    button.addEventListener("click", () => show(entry, true));
    const line = make("tr", { "data-trace": entry.trace, "data-span": entry.span },
      make("th", { scope: "row" }, button), make("td", {}, entry.name),
      make("td", { class: "outcome" + (entry.outcome === "completed" ? "" : " bad") }, entry.outcome),
      make("td", {}, entry.scenario || "–"), make("td", { class: "session" }, entry.session || "–"),
      make("td", {}, new Date(entry.start_us / 1e3).toISOString().slice(11, 23)),
      make("td", {}, make("code", {}, entry.trace)));
    mark(line);
    return line;
  }

  function mark(line) {
    const open = state.open === line.dataset.trace + line.dataset.span;
    line.classList.toggle("open", open);
    line.querySelector("button").setAttribute("aria-expanded", String(open));
  }

  async function show(entry, focus) {
    let found;
    try {
      found = await source.get(entry);
    } catch (error) {
      $("status").textContent = "The request cannot be had: " + error.message;
      return;
    }
    state.open = entry.trace + entry.span;
    for (const line of $("list").tBodies[0].rows) mark(line);
    draw(found, entry);
    history.replaceState(null, "", "#trace=" + entry.trace);
    if (focus) {
      $("h-detail").focus();
      $("detail").scrollIntoView({ block: "nearest" });
    }
  }

  function draw(found, entry) {
    const names = found.names;
    const [trace, span, name, outcome, , session, , duration, spans, count, steps] = found.document;
    const heading = make("h3", { id: "h-detail", tabindex: "-1" },
      names[name] + " · " + ms(duration) + " · " + names[outcome]);
    const facts = make("p", { class: "facts" }, "trace ", make("code", {}, trace), " · span ", make("code", {}, span));
    if (session) facts.append(" · session ", make("code", {}, session));
    if (entry.scenario) facts.append(" · " + entry.scenario);
    const fit = make("select", { id: "fit" }, make("option", { value: "whole" }, "whole request"));
    const first = firstToken(spans, names);
    if (first) fit.append(make("option", { value: "first" }, "up to the first token"));
    const back = make("button", { type: "button" }, "Back to the list");
    back.addEventListener("click", () => {
      const line = [...$("list").tBodies[0].rows].find((each) => each.classList.contains("open"));
      (line ? line.querySelector("button") : $("text")).focus();
    });
    const table = make("table", { id: "waterfall" });
    const fill = () => waterfall(table, found, fit.value === "first" ? first : duration);
    fit.addEventListener("change", fill);
    $("detail").replaceChildren(heading, facts, ...parts(spans[0], names, duration),
      make("div", { class: "tools" }, make("label", {}, "Time axis", fit), back), table);
    fill();
    if (steps === null && count === 0) {
      $("detail").append(make("p", { class: "view" },
        "Its engine steps are not in this file; codesign view draws them for every request."));
    } else if (steps !== null && steps.length) $("detail").append(stepTable(steps, count));
    $("detail").hidden = false;
  }

  function firstToken(spans, names) {
    const ends = spans.filter((s) => names[s[1]] === "prefill").map((s) => s[3] + s[4]);
    return ends.length ? Math.max(...ends) : 0;
  }

  // The accounting as the server wrote it on the request's root.
  function parts(root, names, duration) {
    const found = [];
    for (let i = 0; i < root[6].length; i += 2) {
      const part = /^codesign\.part\.(.+)_ns$/.exec(names[root[6][i]]);
      if (part) found.push([part[1], root[6][i + 1]]);
    }
    if (!found.length || !duration) return [];
    found.sort((a, b) => b[1] - a[1]);
    const bar = make("div", { class: "mini", role: "img", "aria-label": "What it waited for: "
      + found.map(([part, ns]) => part + " " + ms(ns)).join(", ") });
    const key = make("p", { class: "key" });
    for (const [part, ns] of found) {
      const piece = make("span", { title: part + ": " + ms(ns) });
      piece.style.width = (100 * ns / duration) + "%";
      piece.style.background = data.parts[part] || "#9aa0a6";
      bar.append(piece);
      const box = make("i", {});
      box.style.background = data.parts[part] || "#9aa0a6";
      key.append(make("span", {}, box, part + " " + ms(ns) + " (" + (100 * ns / duration).toFixed(1) + " %)"), " ");
    }
    return [bar, key];
  }

  function waterfall(table, found, length) {
    const names = found.names;
    const whole = Math.max(length, 1);
    const axis = make("div", { class: "axis", "aria-hidden": "true" });
    for (const at of ticks(whole / 1e6)) {
      const tick = make("span", {}, at.label);
      tick.style.left = (100 * at.value / (whole / 1e6)) + "%";
      if (at.value / (whole / 1e6) > 0.94) tick.className = "end";
      axis.append(tick);
    }
    const body = make("tbody", {});
    found.document[8].forEach((span, index) => {
      const label = names[span[0]];
      const button = make("button", { type: "button", "aria-expanded": "false", title: label }, label);
      const bar = make("div", {
        class: "bar" + (span[5] & 1 ? " spread" : ""), "data-start-ns": span[3], "data-length-ns": span[4],
      });
      // What ends with the axis is seen as well.
      bar.style.left = "min(" + (100 * span[3] / whole) + "%, 100% - 2px)";
      bar.style.width = (100 * span[4] / whole) + "%";
      bar.style.background = index === 0 ? "var(--root)" : found.colours[span[1]];
      const line = make("tr", { class: "span" }, make("th", { scope: "row" }, button),
        make("td", { class: "number from" }, number(span[3] / 1e6)), make("td", { class: "number" }, number(span[4] / 1e6)),
        make("td", { class: "lane" }, make("div", { class: "track", "aria-hidden": "true" }, bar)));
      button.addEventListener("click", () => {
        const open = button.getAttribute("aria-expanded") === "true";
        button.setAttribute("aria-expanded", String(!open));
        if (open) line.nextElementSibling.remove();
        else line.after(more(span, names));
      });
      body.append(line);
    });
    (found.document[10] || []).length && data.steps.forEach(([name, colour], place) => {
      body.append(stepRow(name, colour, found.document[10].map((step) => step[3 + place]), whole));
    });
    table.replaceChildren(
      make("caption", { class: "hidden" }, "Spans of the request, in ms from its first byte"),
      make("colgroup", {}, make("col", { class: "what" }), make("col", { class: "start" }), make("col", { class: "length" }), make("col", {})),
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "span"), make("th", { scope: "col", class: "from" }, "from ms"),
        make("th", { scope: "col" }, "length ms"),
        make("th", { scope: "col", class: "lane" }, make("span", { class: "hidden" }, "drawn"), axis))),
      body);
  }

  function stepRow(name, colour, stretches, whole) {
    let path = "", sum = 0;
    for (const each of stretches) {
      for (let i = 0; i < each.length; i += 2) {
        path += "M" + (1000 * each[i] / whole).toFixed(3) + " 0h" + (1000 * each[i + 1] / whole).toFixed(3) + "v10H"
          + (1000 * each[i] / whole).toFixed(3) + "z";
        sum += each[i + 1];
      }
    }
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 1000 10");
    svg.setAttribute("preserveAspectRatio", "none");
    const drawn = document.createElementNS("http://www.w3.org/2000/svg", "path");
    drawn.setAttribute("d", path);
    drawn.setAttribute("fill", colour);
    drawn.setAttribute("stroke", colour);
    drawn.setAttribute("stroke-width", "1");
    drawn.setAttribute("vector-effect", "non-scaling-stroke");
    svg.append(drawn);
    return make("tr", { class: "step" }, make("th", { scope: "row" }, "steps: " + name), make("td", { class: "number from" }, ""),
      make("td", { class: "number" }, number(sum / 1e6)),
      make("td", { class: "lane" }, make("div", { class: "track", "aria-hidden": "true" }, svg)));
  }

  function more(span, names) {
    const list = make("dl", {}, make("dt", {}, "service"), make("dd", {}, names[span[2]]));
    const add = (key, value) => list.append(make("dt", {}, key), make("dd", {}, String(value)));
    for (let i = 0; i < span[6].length; i += 2) add(names[span[6][i]], span[6][i + 1]);
    for (const [name, at, attributes] of span[7]) {
      const told = [];
      for (let i = 0; i < attributes.length; i += 2) told.push(names[attributes[i]] + " = " + attributes[i + 1]);
      add("event " + names[name], "at " + ms(at) + (told.length ? ": " + told.join(", ") : ""));
    }
    return make("tr", { class: "more" }, make("td", { colspan: "4" }, list));
  }

  function stepTable(steps, count) {
    const sum = (each) => each.reduce((total, value, i) => total + (i % 2 ? value : 0), 0);
    const body = make("tbody", {}, ...steps.map((s) => make("tr", {}, make("th", { scope: "row" }, String(s[0])),
      ...[s[1], s[2], ...s.slice(3).map((each) => number(sum(each) / 1e6))].map((cell) => make("td", {}, String(cell))))));
    const heads = ["step", "requests", "tokens", ...data.steps.map(([name]) => name + " ms")];
    const table = make("table", {}, make("caption", { class: "hidden" }, "Engine steps of the request"), make("thead", {}, make("tr", {}, ...heads.map((h) => make("th", { scope: "col" }, h)))), body);
    const shown = steps.length < count ? "The first " + steps.length + " of its " + count + " engine steps" : "Its " + count + " engine steps";
    return make("details", {}, make("summary", {}, shown + ", as a table"),
      make("div", { class: "wide tall", tabindex: "0", role: "region", "aria-label": "Engine steps" }, table));
  }

  function ticks(length) {
    const raw = length / 5;
    const power = Math.pow(10, Math.floor(Math.log10(raw)));
    const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= raw);
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    const found = [];
    for (let n = 0; n * step <= length * (1 + 1e-9); n++) found.push({ value: n * step, label: (n * step).toLocaleString("en-US",
      { minimumFractionDigits: digits, maximumFractionDigits: digits }) });
    found[found.length - 1].label += " ms";
    return found;
  }

  function again() { state.offset = 0; return refresh(); }
  let pause = 0;
  $("text").addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(again, data.requests ? 0 : 200); });
  $("outcome").addEventListener("change", again);
  $("order").addEventListener("change", again);
  $("search").addEventListener("submit", (event) => { event.preventDefault(); again(); });
  $("previous").addEventListener("click", () => { state.offset = Math.max(0, state.offset - PAGE); refresh(); });
  $("next").addEventListener("click", () => { state.offset += PAGE; refresh(); });

  (async function () {
    const wanted = /^#trace=([0-9a-f]{1,32})$/.exec(location.hash);
    if (wanted) $("text").value = wanted[1];
    const entries = await refresh();
    if (entries && entries.length) await show(entries[0], false);
    performance.mark("codesign-drawn");
    document.documentElement.dataset.ready = "yes";
  })();

  // A capture that grows: new requests come into the list by themselves.
  if (!data.requests) {
    let known = null;
    setInterval(async () => {
      let now;
      try { now = await source.state(); } catch (error) { return; }  // the server has ended
      if (known !== null && now.version !== known) {
        await refresh();
        document.dispatchEvent(new CustomEvent("codesign-grown", { detail: now }));
      }
      known = now.version;
    }, 3000);
  }
})();
