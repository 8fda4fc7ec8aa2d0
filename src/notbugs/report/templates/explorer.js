// Single images: one dataset at a time, its images chosen by what is said of them. Rows are copies of the first one, which
// the page holds without scripts, with other texts and other tiles of the sheets.
{
  const PAGE = 20;  // images that are shown at once
  const sets = [...document.querySelectorAll(".explored")];

  // Name of a choice -> the number of its cell in a row.
  const choices = (set) => new Map(JSON.parse(set.dataset.filters));

  const fill = (set) => {
    const body = set.querySelector("tbody"), kept = set.querySelector("script");
    for (const [place, texts] of JSON.parse(kept.textContent)) {
      const row = body.rows[0].cloneNode(true);
      row.className = "more";
      row.querySelectorAll("svg").forEach((tile) => {
        const [, y, width, height] = tile.getAttribute("viewBox").split(" ");
        tile.setAttribute("viewBox", `${place * width} ${y} ${width} ${height}`);
      });
      [...row.cells].filter((cell) => !cell.matches(".tile")).forEach((cell, number) => {
        const [text, below] = texts[number].split("\n");
        cell.firstChild.data = text;
        if (below !== undefined) cell.querySelector("small").textContent = below;
      });
      body.append(row);
    }
    kept.remove();
  };

  const makeSelect = (form, text) => {
    const label = document.createElement("label"), select = document.createElement("select");
    label.append(text, select);
    form.append(label);
    return select;
  };

  const explore = (first) => {
    const form = document.createElement("form"), more = document.createElement("button");
    form.className = "filters";
    const which = makeSelect(form, "dataset");
    which.append(...sets.map((set) => new Option(set.dataset.title)));
    const selects = new Map([...choices(first).keys()].map((name) => [name, makeSelect(form, name)]));
    const count = document.createElement("output");
    form.append(count);
    first.before(form);
    more.type = "button";
    more.className = "further";
    more.textContent = "Show more";
    sets.at(-1).after(more);
    let limit = PAGE;

    const textIn = (row, column) => row.cells[column].firstChild.data;

    const show = () => {
      const set = sets[which.selectedIndex], columns = choices(set);
      const rows = [...set.querySelectorAll("tbody tr")];
      const asked = [...selects].filter(([name, select]) => select.value && columns.has(name));
      const chosen = rows.filter((row) => asked.every(([name, { value }]) => textIn(row, columns.get(name)) === value));
      rows.forEach((row) => { row.hidden = true; });
      chosen.slice(0, limit).forEach((row) => { row.hidden = false; });
      sets.forEach((one) => { one.hidden = one !== set; });
      count.textContent = `${Math.min(limit, chosen.length)} of ${chosen.length} shown, ${rows.length} in all`;
      more.hidden = chosen.length <= limit;
    };

    const choose = () => {
      const set = sets[which.selectedIndex], columns = choices(set);
      if (set.querySelector("script")) fill(set);
      for (const [name, select] of selects) {
        const before = select.value, rows = columns.has(name) ? [...set.querySelectorAll("tbody tr")] : [];
        const values = [...new Set(rows.map((row) => textIn(row, columns.get(name))))];
        values.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
        select.replaceChildren(new Option("all", ""), ...values.map((value) => new Option(value, value)));
        select.value = values.includes(before) ? before : "";
        select.disabled = !rows.length;
      }
      limit = PAGE;
      show();
    };

    which.addEventListener("change", choose);
    selects.forEach((select) => select.addEventListener("change", () => { limit = PAGE; show(); }));
    more.addEventListener("click", () => { limit += PAGE; show(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    choose();
  };

  if (sets.length) explore(sets[0]);
}
