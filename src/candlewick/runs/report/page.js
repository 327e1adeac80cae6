// Hovering over a chart shows the nearest point of each line.
"use strict";
const charts = JSON.parse(document.getElementById("points").textContent);
const exact = new Intl.NumberFormat("en");
const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const show = (y) => (y !== 0 && Math.abs(y) < 1e-3 ? y.toExponential(2) : digits.format(y));

function nearest(places, at) {
  let low = 0;
  let high = places.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (places[middle] < at) low = middle + 1;
    else high = middle;
  }
  return low > 0 && at - places[low - 1] < places[low] - at ? low - 1 : low;
}

document.querySelectorAll(".chart").forEach((figure, number) => {
  const chart = charts[number];
  const readout = figure.querySelector(".readout");
  figure.querySelectorAll(".plot").forEach((plot) => {
    const axis = plot.classList.contains("by-step") ? "step" : "tokens";
    const cursor = plot.querySelector(".cursor");
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width) * chart.ends[axis];
      const near = chart.series.map((series) => series[axis][nearest(series[axis], at)]);
      const place = near.reduce((best, other) => (Math.abs(other - at) < Math.abs(best - at) ? other : best));
      cursor.style.visibility = "visible";
      cursor.style.left = `${(100 * place) / chart.ends[axis]}%`;
      const there = chart.series.filter(({ [axis]: places }) => places[0] <= place && place <= places.at(-1));
      const words = there.map((series) => {
        const word = document.createElement("span");
        word.className = `color-${series.color}`;
        word.textContent = `${series.label} ${show(series.y[nearest(series[axis], place)])}`;
        return word;
      });
      readout.replaceChildren(axis === "step" ? `step ${exact.format(place)}` : `${exact.format(place)} tokens`, ...words);
    });
    plot.addEventListener("pointerleave", () => {
      cursor.style.visibility = "hidden";
      readout.textContent = "\u00a0";
    });
  });
});
