// A figure's picture opens at its full size. What is wider than its box says so.
{
  const shown = document.createElement("dialog");
  shown.className = "picture";
  shown.innerHTML = '<form method="dialog"><button>Close</button></form><div tabindex="0" role="region"><img></div>';
  const [frame, large] = [shown.querySelector("div"), shown.querySelector("img")];
  shown.addEventListener("click", ({ target }) => { if (target === shown) shown.close(); });
  document.body.append(shown);

  for (const picture of document.querySelectorAll("figure > img")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "larger";
    button.title = "Open at full size";
    picture.before(button);
    button.append(picture);
    button.addEventListener("click", () => {
      large.src = picture.src;
      large.alt = picture.alt;
      shown.setAttribute("aria-label", picture.alt);
      frame.setAttribute("aria-label", "Picture at full size");
      shown.showModal();  // Escape closes it, and the focus returns
    });
  }

  const widths = new ResizeObserver((changes) => changes.forEach(({ target }) => {
    target.toggleAttribute("data-wide", target.scrollWidth > target.clientWidth + 1);
  }));
  document.querySelectorAll(".scroll, figure").forEach((box) => widths.observe(box));
}
