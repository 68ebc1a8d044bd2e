"use strict";
(() => {
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

  // A link opens the experiment that it leads to, filtered away or not.
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
  window.addEventListener("hashchange", openTarget);
  openTarget();
})();
