"use strict";
// Sorts and filters tables. Readers without scripts have the same tables, in the order of the page.
for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0], original = [...body.rows], heads = [...table.tHead.rows[0].cells];
  if (original.length < 2) continue;
  const textOf = (row, i) => row.cells[i].textContent.trim();
  const valueOf = (row, i) => {
    const sort = row.cells[i].dataset.sort;
    return sort === undefined ? textOf(row, i) : Number(sort);
  };
  const isMissing = (value) => value === "" || value === "–";
  const compare = (a, b) => {
    if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
    return typeof a === "number" ? -1 : 1;
  };
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = { none: "ascending", ascending: "descending", descending: "none" }[head.ariaSort ?? "none"];
      for (const other of heads) other.removeAttribute("aria-sort");
      if (order === "none") return body.append(...original);
      head.ariaSort = order;
      const keyed = original.map((row) => [valueOf(row, i), row]);
      const sign = order === "ascending" ? 1 : -1;
      keyed.sort(([a], [b]) => isMissing(a) - isMissing(b) || sign * compare(a, b)); // missing values stay last
      body.append(...keyed.map(([, row]) => row));
    });
  });
  if (original.length < 8) continue;
  const bar = document.createElement("div"), search = document.createElement("input");
  const shown = document.createElement("output"), chosen = [];
  bar.className = "filter";
  const labelled = (text, field) => {
    const label = document.createElement("label");
    label.append(text, " ", field);
    bar.append(label);
  };
  search.type = "search";
  labelled("Filter rows", search);
  heads.forEach((head, i) => {
    if (head.dataset.choose === undefined) return;
    const values = [...new Set(original.map((row) => textOf(row, i)))];
    if (values.length < 2 || values.length > 40) return;
    const select = document.createElement("select");
    select.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
    labelled(head.textContent, select);
    chosen.push([select, i]);
  });
  bar.append(shown);
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of original) {
      const text = row.textContent.toLowerCase();
      const fits = chosen.every(([select, i]) => !select.value || textOf(row, i) === select.value);
      row.hidden = !(fits && words.every((word) => text.includes(word)));
      count += !row.hidden;
    }
    shown.textContent = count < original.length ? `${count} of ${original.length} rows` : "";
  };
  bar.addEventListener("input", filter);
  table.parentElement.before(bar);
}
