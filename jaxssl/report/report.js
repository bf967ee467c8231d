// Adds to a page that is whole without it: a read-out under the pointer, shared by all charts,
// and lines that switch off. The drawing itself is never touched.
"use strict";
(() => {
  document.documentElement.classList.add("scripted");

  const whole = (value) => Math.round(value).toLocaleString("en-US");

  const text = (value) => {
    if (value === null) return "-";
    const size = Math.abs(value);
    if (size >= 1000 || value === 0) return whole(value);
    for (const [from, decimals] of [[100, 1], [10, 2], [1, 3], [1e-3, 4]]) {
      if (size >= from) return value.toFixed(decimals);
    }
    return value.toExponential(2).replace(/\.?0+e/, "e");
  };

  // The index of the step in `steps` (ascending) that is nearest to `step`.
  const nearest = (steps, step) => {
    let low = 0;
    let high = steps.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (steps[middle] <= step) low = middle;
      else high = middle;
    }
    return step - steps[low] <= steps[high] - step ? low : high;
  };

  const pair = (words) => words.split(" ").map(Number);

  const open = (figure) => {
    const lines = JSON.parse(figure.querySelector("script").textContent);
    for (const line of lines) if (typeof line.x === "number") line.x = lines[line.x].x;
    const area = figure.querySelector(".area");
    const cursor = area.appendChild(document.createElement("div"));
    cursor.className = "cursor";
    cursor.hidden = true;
    const buttons = [...figure.querySelectorAll(".legend button")];
    const numbers = buttons.map((button) => button.querySelector("data"));
    const names = buttons.map((button) => button.querySelector("span").textContent);
    const written = numbers.map((number) => number.textContent);
    const dots = lines.map((line) => {
      const dot = area.appendChild(document.createElement("div"));
      dot.className = "dot";
      dot.hidden = true;
      dot.style.background = `var(--c${line.color})`;
      return dot;
    });
    const off = lines.map(() => false);
    const box = figure.querySelector(".scale input");
    const last = Number(figure.dataset.last);
    const output = figure.querySelector(".step");
    const lead = Math.max(lines.findIndex((line) => line.kind !== "rule"), 0);

    const place = (value) => {
      const log = box && box.checked;
      const [low, high] = pair(log ? figure.dataset.log : figure.dataset.lin);
      if (log) return value > 0 ? Math.log(Math.max(value, low) / low) / Math.log(high / low) : NaN;
      return (value - low) / (high - low);
    };

    buttons.forEach((button, index) => {
      button.addEventListener("click", () => {
        off[index] = !off[index];
        button.setAttribute("aria-pressed", String(!off[index]));
        for (const path of figure.querySelectorAll(`[data-line="${index}"]`)) {
          path.classList.toggle("off", off[index]);
        }
      });
    });

    const hide = () => {
      cursor.hidden = true;
      output.textContent = "step";
      numbers.forEach((number, index) => (number.textContent = written[index]));
      dots.forEach((dot) => (dot.hidden = true));
    };

    const show = (step) => {
      const steps = lines[lead].x;
      const here = steps[nearest(steps, step)];
      cursor.hidden = false;
      cursor.style.left = `${(here / last) * 100}%`;
      const asides = [];
      lines.forEach((line, index) => {
        const point = line.kind === "rule" ? 0 : nearest(line.x, here);
        const value = line.y[point];
        const at = line.x[point];
        if (line.kind === "points" && at !== here) asides.push(`${names[index]} at ${whole(at)}`);
        numbers[index].textContent = text(value);
        const y = value === null ? NaN : place(value);
        dots[index].hidden = line.kind === "rule" || line.kind === "raw" || off[index] || isNaN(y);
        dots[index].style.left = `${(at / last) * 100}%`;
        dots[index].style.bottom = `${y * 100}%`;
      });
      output.textContent = [`step ${whole(here)}`, ...asides].join("; ");
    };

    area.tabIndex = 0;
    area.setAttribute("aria-label", "Read values with the arrow keys");
    area.setAttribute("role", "group");
    return { area, show, hide, last, steps: lines[lead].x };
  };

  const charts = [...document.querySelectorAll("figure.chart")].map(open);
  const showAll = (step) => charts.forEach((chart) => chart.show(step));
  const hideAll = () => charts.forEach((chart) => chart.hide());

  for (const { area, last, steps } of charts) {
    let at = steps.length - 1;
    const follow = (event) => {
      const box = area.getBoundingClientRect();
      const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
      at = nearest(steps, share * last);
      showAll(share * last);
    };
    area.addEventListener("pointermove", follow);
    area.addEventListener("pointerdown", follow);
    area.addEventListener("pointerleave", hideAll);
    area.addEventListener("blur", hideAll);
    area.addEventListener("keydown", (event) => {
      const stride = event.shiftKey ? Math.max(Math.round(steps.length / 20), 1) : 1;
      if (event.key === "ArrowLeft") at = Math.max(at - stride, 0);
      else if (event.key === "ArrowRight") at = Math.min(at + stride, steps.length - 1);
      else if (event.key === "Home") at = 0;
      else if (event.key === "End") at = steps.length - 1;
      else if (event.key === "Escape") return hideAll();
      else return;
      event.preventDefault();
      showAll(steps[at]);
    });
  }

  window.addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details")) fold.open = true;
  });
})();
