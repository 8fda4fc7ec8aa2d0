// Tables sort by a click on a column's header, and are copied by a menu above them. The buttons are made here, so that a
// page without scripts has none that do nothing.
{
  const APART = new Set(["SMALL", "P", "DIV", "BR"]);

  // The text of a cell, its lines in one; without `notes` what stands below it in small is left out.
  const textOf = (node, notes = true) => {
    const parts = [...node.childNodes].map((child) => {
      if (child.nodeType === Node.TEXT_NODE) return child.data;
      if (child.nodeName === "svg" || (!notes && child.nodeName === "SMALL")) return "";
      return APART.has(child.nodeName) ? ` ${textOf(child, notes)} ` : textOf(child, notes);
    });
    return parts.join("").replace(/\s+/g, " ").trim();
  };

  const headings = (table) => [...table.tHead.rows[table.tHead.rows.length - 1].cells];

  const readTable = (table, caption) => {
    const groups = [...(table.querySelector(".groups")?.cells ?? [])];
    return {
      caption,
      groups: groups.map((cell) => ({ text: textOf(cell), span: cell.colSpan })),
      head: headings(table).map((cell) => textOf(cell)),
      rows: [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => [...row.cells].map((cell) => textOf(cell))),
      numeric: headings(table).map((cell) => cell.classList.contains("number")),
    };
  };

  // Rising, falling, and as they came.
  const makeSortable = (table) => {
    const body = table.tBodies[0], first = new Map();
    const sort = (heading, column) => {
      [...body.rows].forEach((row) => { if (!first.has(row)) first.set(row, first.size); });
      const rows = [...body.rows].sort((a, b) => first.get(a) - first.get(b));
      const next = { ascending: "descending", descending: null }[heading.getAttribute("aria-sort")];
      const order = next === undefined ? "ascending" : next;
      headings(table).forEach((one) => one.removeAttribute("aria-sort"));
      if (order) heading.setAttribute("aria-sort", order);
      const texts = rows.map((row) => textOf(row.cells[column], false) || textOf(row.cells[column]));
      const places = order ? sortedPlaces(texts, order === "ascending" ? 1 : -1) : [...rows.keys()];
      body.append(...places.map((place) => rows[place]));
    };
    headings(table).forEach((heading, column) => {
      if (!textOf(heading) || heading.classList.contains("tile")) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(heading.firstChild);  // what stands in small below it stays there
      button.addEventListener("click", () => sort(heading, column));
      heading.prepend(button);
    });
  };

  const copyText = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {  // a page that is not secure, or in a frame, has no clipboard of its own
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      const copied = document.execCommand("copy");
      area.remove();
      return copied;
    }
  };

  const makeCopyable = (table, caption) => {
    const over = document.createElement("div"), menu = document.createElement("div"), text = textOf(caption);
    over.className = "over";
    menu.className = "copy";
    menu.innerHTML = '<span role="status"></span><details><summary>Copy</summary><div></div></details>';
    const [status, fold, summary] = ["span", "details", "summary"].map((name) => menu.querySelector(name));
    summary.setAttribute("aria-label", `Copy the table: ${text}`);
    for (const [name, write] of Object.entries({ CSV: csv, Markdown: markdown, LaTeX: latex })) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.addEventListener("click", async () => {
        const copied = await copyText(write(readTable(table, text)));
        status.textContent = copied ? `Copied as ${name}` : "The browser does not let this page copy";
        fold.open = false;
        summary.focus();
        setTimeout(() => { status.textContent = ""; }, 4000);
      });
      fold.lastElementChild.append(button);
    }
    menu.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && fold.open) { fold.open = false; summary.focus(); }
    });
    menu.addEventListener("focusout", ({ relatedTarget: to }) => { if (to && !menu.contains(to)) fold.open = false; });
    caption.before(over);
    over.append(caption, menu);
  };

  document.addEventListener("pointerdown", ({ target }) => {
    document.querySelectorAll(".copy details[open]").forEach((one) => { if (!one.contains(target)) one.open = false; });
  });
  for (const table of document.querySelectorAll(".scroll > table")) {
    makeCopyable(table, table.parentElement.previousElementSibling);
    if (table.tBodies[0].rows.length > 1) makeSortable(table);
  }
}
