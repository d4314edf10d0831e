"use strict";
{
  const form = document.querySelector("form.ledger");
  const body = document.querySelector("table.ledger tbody");
  const rows = [...body.rows];
  const numeric = new Intl.Collator("en", { numeric: true });
  let sorted = { column: 0, sign: 1 };

  const show = () => {
    const { paper, verdict, words } = form.elements;
    const sought = words.value.toLowerCase().split(" ");
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden =
        (paper.value && row.dataset.paper !== paper.value) ||
        (verdict.value && row.dataset.verdict !== verdict.value) ||
        !sought.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    form.querySelector("output").value = `${shown} of ${rows.length} claims`;
  };

  const sort = (column) => {
    const sign = sorted.column === column ? -sorted.sign : 1;
    const key = (row) => row.cells[column].textContent;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (!x || !y) return !x - !y;
      const bothNumbers = !isNaN(x) && !isNaN(y);
      return sign * (bothNumbers ? x - y : numeric.compare(x, y));
    };
    sorted = { column, sign };
    body.append(...[...rows].sort(compare));
  };

  document.querySelectorAll("table.ledger th").forEach((head, column) => {
    head.tabIndex = 0;
    head.addEventListener("click", () => sort(column));
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort(column));
  });
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show();
}
