"use strict";
(() => {
  const details = JSON.parse(document.getElementById("runs").textContent);
  const collator = new Intl.Collator("en", { numeric: true });
  const DASH = "-";

  // Sorting: by the number or text that a cell begins with; what has none comes last.
  const keyOf = (cell, numeric) => {
    const text = cell.textContent.trim();
    const key = numeric ? Number.parseFloat(text) : text;
    return text === DASH || Number.isNaN(key) ? null : key;
  };

  const sortBy = (head) => {
    const table = head.closest("table");
    const numeric = head.dataset.kind === "number";
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    const sign = ascending ? 1 : -1;
    const keyed = [...table.tBodies[0].rows].map((row) => [
      keyOf(row.cells[head.cellIndex], numeric),
      row,
    ]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return Number(a === null) - Number(b === null);
      return sign * (numeric ? a - b : collator.compare(a, b));
    });
    const sorted = document.createDocumentFragment();
    for (const [, row] of keyed) sorted.append(row);
    table.tBodies[0].append(sorted);
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  };

  // Filtering: every word must occur in what names a row; measured numbers do not count.
  const names = new WeakMap();
  const nameOf = (item) => {
    if (!names.has(item)) {
      const parts =
        item instanceof HTMLTableRowElement
          ? [...item.cells].filter((cell) => !cell.matches(".num:not(.seed)"))
          : [item.querySelector("summary")];
      names.set(item, parts.map((part) => part.textContent).join(" ").toLowerCase());
    }
    return names.get(item);
  };

  const filter = (input) => {
    const section = input.closest("section");
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const show = (item) => {
      item.hidden = !words.every((word) => nameOf(item).includes(word));
      return !item.hidden;
    };
    const [results, seeds] = [...section.querySelectorAll("table.sortable")].map((table) => {
      const rows = [...table.tBodies[0].rows];
      return `${rows.filter(show).length} of ${rows.length}`;
    });
    section.querySelectorAll("details.experiment").forEach(show);
    const said = `${results} experiments, ${seeds} runs`;
    section.querySelector("output").textContent = words.length ? said : "";
  };

  // Details of an experiment, written when they are first opened.
  const make = (tag, content, attributes = {}) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...(Array.isArray(content) ? content : [content]));
    return element;
  };

  const scrolling = (table, label) =>
    make("div", table, { class: "scroll", role: "region", tabindex: "0", "aria-label": label });

  const settings = (experiment) => {
    const differing = new Set(experiment.differing);
    const rows = Object.entries(experiment.configuration).map(([key, value]) =>
      make("tr", [
        make("th", differing.has(key) ? make("mark", key) : key, { scope: "row" }),
        make("td", value),
      ]),
    );
    const heads = ["Setting", "Value"].map((text) => make("th", text, { scope: "col" }));
    const caption = "Configuration. Marked: differs from the model's other experiments here.";
    return make("table", [
      make("caption", make("span", caption)),
      make("thead", make("tr", heads)),
      make("tbody", rows),
    ]);
  };

  const percent = (value) => (value === null ? DASH : (100 * value).toFixed(2));
  const plain = (value) => (value === null || value === undefined ? DASH : String(value));
  const rounded = (value) => (value === null ? DASH : value.toFixed(1));

  // One line a fact, one column a seed; [name, value by run, whether each seed has its own].
  const facts = (experiment) => {
    const { runs } = experiment;
    const keys = (part) => [...new Set(runs.flatMap((run) => Object.keys(run[part])))];
    const splits = keys("metrics").sort(
      (a, b) => Number(b === "test") - Number(a === "test") || collator.compare(a, b),
    );
    const metrics = splits.flatMap((split) =>
      [...new Set(runs.flatMap((run) => Object.keys(run.metrics[split] ?? {})))].map((name) => [
        `${split} ${name} ×100`,
        (run) => percent(run.metrics[split]?.[name] ?? null),
        true,
      ]),
    );
    const timings = keys("timings").map((phase) => [
      `${phase}, seconds`,
      (run) => rounded(run.timings[phase] ?? null),
      true,
    ]);
    return [
      ["status", (run) => (run.reason ? `${run.status}: ${run.reason}` : run.status)],
      ["selection rule", (run) => run.selection],
      ["tested epoch", (run) => plain(run.chosen), true],
      ["epochs trained", (run) => plain(Math.max(0, ...run.epochs)), true],
      ...timings,
      ["peak memory, MiB", (run) => rounded(run.memory), true],
      ["environment", (run) => details.environments[run.environment]],
      ["code version", () => experiment.code],
      ["notes", (run) => run.notes.join("; ") || DASH],
      ["checkpoint", (run) => plain(run.checkpoint)],
      ["run", (run) => run.run, true],
      ["recorded", (run) => run.created, true],
      ...metrics,
    ];
  };

  const runTable = (experiment) => {
    const { runs } = experiment;
    const rows = facts(experiment).map(([name, valueOf, each]) => {
      const values = runs.map(valueOf);
      const shared = !each && values.every((value) => value === values[0]);
      const cells = shared
        ? [make("td", values[0], { colspan: String(runs.length) })]
        : values.map((value) => make("td", value));
      return make("tr", [make("th", name, { scope: "row" }), ...cells]);
    });
    const seeds = runs.map((run) => make("th", `seed ${run.seed}`, { scope: "col" }));
    const caption = "Runs, n = 1 in each column; a fact that all seeds share stands once.";
    return make("table", [
      make("caption", make("span", caption)),
      make("thead", make("tr", [make("th", "Fact", { scope: "col" }), ...seeds])),
      make("tbody", rows),
    ]);
  };

  // Validation curves: one line a seed, a dot at the tested epoch, a cross where it diverged.
  const [WIDTH, HEIGHT, LEFT, BOTTOM, EDGE] = [340, 190, 52, 24, 10];
  const draw = (tag, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };

  const points = (run, name) =>
    run.epochs
      .map((epoch, index) => [epoch, run.curves[name]?.[index] ?? null])
      .filter(([, value]) => value !== null);

  const scale = (values, from, to) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const span = high - low || 1;
    return { low, high, at: (value) => from + ((value - low) / span) * (to - from) };
  };

  const chart = (runs, name) => {
    const lines = runs.map((run) => points(run, name));
    const drawn = lines.flat();
    const x = scale(drawn.map(([epoch]) => epoch), LEFT, WIDTH - EDGE);
    const y = scale(drawn.map(([, value]) => value), HEIGHT - BOTTOM, EDGE);
    const label = `validation ${name} by epoch, ${runs.length} ${runs.length === 1 ? "seed" : "seeds"}`;
    const image = draw("svg", {
      class: "curve",
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      "aria-label": label,
    });
    for (const value of [y.low, y.high]) {
      const at = y.at(value);
      image.append(
        draw("line", { class: "axis", x1: LEFT, x2: WIDTH - EDGE, y1: at, y2: at }),
        draw("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, value.toPrecision(3)),
      );
    }
    for (const [value, anchor] of [[x.low, "start"], [x.high, "end"]]) {
      image.append(draw("text", { x: x.at(value), y: HEIGHT - 6, "text-anchor": anchor }, value));
    }
    runs.forEach((run, index) => {
      const line = lines[index].map(([epoch, value]) => [x.at(epoch), y.at(value), epoch]);
      if (!line.length) return;
      const path = draw("polyline", { class: "run", points: line.map(([a, b]) => `${a},${b}`).join(" ") });
      path.append(draw("title", {}, `seed ${run.seed}`));
      image.append(path);
      const chosen = line.find(([, , epoch]) => epoch === run.chosen);
      if (chosen) image.append(draw("circle", { class: "chosen", cx: chosen[0], cy: chosen[1], r: 3 }));
      if (run.reason) {
        const [a, b] = line[line.length - 1];
        const cross = `M${a - 4},${b - 4}l8,8m0,-8l-8,8`;
        image.append(draw("path", { class: "end", d: cross }));
      }
    });
    return make("figure", [image, make("figcaption", label)]);
  };

  const curves = (runs) => {
    const shown = [...new Set(runs.flatMap((run) => Object.keys(run.curves)))];
    if (!shown.length) return [];
    const charts = shown.map((name) => chart(runs, name));
    const hint = "A dot marks the tested epoch, a cross the last epoch of a run that diverged.";
    return [
      make("h4", "Validation curves"),
      make("p", hint, { class: "hint" }),
      make("div", charts, { class: "curves" }),
    ];
  };

  const write = (element) => {
    const experiment = details.experiments[element.id];
    const content = [
      make("h4", "Configuration"),
      scrolling(settings(experiment), "Configuration"),
      make("h4", "Runs"),
      scrolling(runTable(experiment), "Runs"),
      ...curves(experiment.runs),
    ];
    element.append(make("div", content));
  };

  const openTarget = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!(target instanceof HTMLDetailsElement)) return;
    target.hidden = false;
    target.open = true;
    target.scrollIntoView();
  };

  document.addEventListener("click", (event) => {
    const head = event.target.closest("table.sortable th[aria-sort]");
    if (head && event.target.closest("button")) sortBy(head);
    if (event.target.closest('a[href^="#"]')) setTimeout(openTarget);
  });
  document.addEventListener("input", (event) => {
    if (event.target.matches(".filter input")) filter(event.target);
  });
  // "toggle" does not bubble, so it is taken on its way down.
  document.addEventListener(
    "toggle",
    (event) => {
      const element = event.target;
      const waiting = element.matches("details.experiment") && element.childElementCount === 1;
      if (waiting && element.open) write(element);
    },
    true,
  );
  window.addEventListener("hashchange", openTarget);
  openTarget();
})();
