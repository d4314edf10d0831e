"use strict";
// A table in div.sortable is sorted by its headings; a form there narrows it, by a search for words
// and by choices of a row's data.
for (const box of document.querySelectorAll("div.sortable")) {
  const form = box.querySelector("form");
  const body = box.querySelector("tbody");
  const rows = [...body.rows];
  const order = new Intl.Collator("en", { numeric: true });
  let sorted = { column: -1, sign: 1 };

  const show = () => {
    const fields = [...form.elements].filter((field) => field.value);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !fields.every((field) =>
        field.name === "words"
          ? field.value.toLowerCase().split(" ").every((word) => text.includes(word))
          : field.name === "shown" || row.dataset[field.name] === field.value
      );
      shown += !row.hidden;
    }
    form.elements.shown.value = `${shown} of ${rows.length}`;
  };

  const sort = (column) => {
    const sign = sorted.column === column ? -sorted.sign : 1;
    const compare = (a, b) => {
      const [x, y] = [a, b].map((row) => row.cells[column].textContent.trim());
      if (!x || !y) return !x - !y;
      const difference = parseFloat(x) - parseFloat(y);
      return sign * (isNaN(difference) ? order.compare(x, y) : difference);
    };
    sorted = { column, sign };
    body.append(...[...rows].sort(compare));
  };

  box.querySelectorAll("th[scope=col]").forEach((head, column) => {
    head.tabIndex = 0;
    head.addEventListener("click", () => sort(column));
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort(column));
  });
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show();
}
