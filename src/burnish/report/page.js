"use strict";
// The value under the pointer, or at the arrow keys' place, on every chart.
for (const figure of document.querySelectorAll("figure[data-chart]")) {
  const data = JSON.parse(figure.dataset.chart);
  const svg = figure.querySelector("svg");
  const hair = svg.querySelector(".hair");
  const tip = figure.querySelector(".tip");
  const [left, right, width] = data.frame;
  const [low, high] = data.range;
  const shown = data.x.map((_, i) => i).filter((i) => data.series.some((s) => s.y[i] !== null));
  const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
  let at = -1;

  const place = (x) => left + ((x - low) / (high - low)) * (right - left);

  function show(position) {
    at = position;
    const i = shown[position];
    const x = place(data.x[i]);
    hair.setAttribute("x1", x);
    hair.setAttribute("x2", x);
    hair.removeAttribute("hidden");
    const title = document.createElement("b");
    title.textContent = `update ${number.format(data.x[i])}`;
    const lines = data.series.filter((s) => s.y[i] !== null).map((s) => {
      const line = document.createElement("div");
      line.textContent = `${s.name} ${number.format(s.y[i])}`;
      return line;
    });
    tip.replaceChildren(title, ...lines);
    tip.hidden = false;
    const scale = svg.clientWidth / width;
    const room = svg.clientWidth - tip.offsetWidth;
    const beside = x * scale + 12;
    tip.style.left = `${Math.max(0, beside <= room ? beside : x * scale - tip.offsetWidth - 12)}px`;
  }

  function hide() {
    at = -1;
    tip.hidden = true;
    hair.setAttribute("hidden", "");
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * width;
    let nearest = 0;
    shown.forEach((i, position) => {
      if (Math.abs(place(data.x[i]) - x) < Math.abs(place(data.x[shown[nearest]]) - x)) nearest = position;
    });
    show(nearest);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    show(Math.min(shown.length - 1, Math.max(0, at < 0 ? (step > 0 ? 0 : shown.length - 1) : at + step)));
  });
}
