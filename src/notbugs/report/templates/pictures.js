// A figure's picture opens at its full size. What is wider than its box says so.
{
  const shown = document.createElement("dialog");
  shown.className = "picture";
  shown.innerHTML = '<form method="dialog"><button>Close</button></form><div tabindex="0" role="region"><img></div>';
  const [frame, large] = [shown.querySelector("div"), shown.querySelector("img")];
  shown.addEventListener("click", ({ target }) => { if (target === shown) shown.close(); });
  document.body.append(shown);

  const open = (picture) => {
    large.src = picture.src;
    large.alt = picture.alt;
    shown.setAttribute("aria-label", picture.alt);
    frame.setAttribute("aria-label", "Picture at full size");
    shown.showModal();  // Escape closes it, and the focus returns
  };
  // The picture itself is the button, and stays where it is: other scripts look for it there.
  for (const picture of document.querySelectorAll("figure > img")) {
    picture.tabIndex = 0;
    picture.setAttribute("role", "button");
    picture.title = "Open at full size";
    picture.addEventListener("click", () => { picture.focus(); open(picture); });
    picture.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open(picture);
    });
  }

  const widths = new ResizeObserver((changes) => changes.forEach(({ target }) => {
    target.toggleAttribute("data-wide", target.scrollWidth > target.clientWidth + 1);
  }));
  document.querySelectorAll(".scroll, figure").forEach((box) => widths.observe(box));
}
