"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const shown = byId("frames").dataset;
  const DETAIL = Number(shown.detail); // of a frame's side is shown in the second row; 0: there is none
  const text = (value, digits) => value.toFixed(digits).replace("-", "−");

  // --- a part of each chosen frame, below the whole
  function place(image, share, still) {
    // shows the chosen `share` of an image in its box, or all of it
    const start = (side) => (share === 1 ? 0 : (-100 * Number(still.dataset[side])) / share);
    Object.assign(image.style, {
      width: `${100 / share}%`, height: `${100 / share}%`, left: `${start("left")}%`, top: `${start("top")}%`,
    });
  }
  for (const whole of DETAIL ? document.querySelectorAll(".still .pixels") : []) {
    const box = document.createElement("div"), copy = whole.cloneNode();
    box.className = "part";
    copy.id = `${whole.id}-middle`;
    copy.alt = `The ${shown.part} of: ${whole.alt}`;
    place(copy, DETAIL, whole.closest(".still"));
    box.append(copy);
    whole.parentElement.append(box);
  }

  // --- before and after
  const box = byId("compare-box"), range = byId("compare-range");
  const frame = byId("compare-frame"), zoom = byId("compare-zoom");
  function show(side) {
    const choice = byId(`compare-${side}`), image = byId(`compare-img-${side}`);
    const from = byId(`still-${frame.value}-${choice.value}`);
    const label = from.previousElementSibling.textContent;
    image.src = from.src;
    image.alt = from.alt;
    place(image, zoom.checked ? DETAIL : 1, from.closest(".still"));
    box.querySelector(`.tag.${side}`).textContent = label;
    box.style.setProperty("--ratio", from.closest(".still").style.getPropertyValue("--ratio"));
  }
  function divide() {
    box.style.setProperty("--at", `${range.value}%`);
    const labels = ["left", "right"].map((side) => byId(`compare-${side}`).selectedOptions[0].textContent);
    range.setAttribute("aria-valuetext", `${Math.round(range.value)} % ${labels[0]}, the rest ${labels[1]}`);
  }
  function showBoth() { show("left"); show("right"); divide(); }
  if (box) { // of a forecast there is none
    range.addEventListener("input", divide);
    for (const id of ["compare-frame", "compare-left", "compare-right", "compare-zoom"]) {
      byId(id).addEventListener("change", showBoth);
    }
    range.value = 50;
    showBoth();
  }

  // --- the loop
  const data = byId("loop-data");
  if (data) {
    const loop = JSON.parse(data.textContent);
    const at = byId("loop-range"), play = byId("loop-play"), speed = byId("loop-speed");
    const screens = [...document.querySelectorAll(".screen")], here = document.querySelector(".map .here");
    const kept = loop.frames.map((f) => screens.map((screen) => {
      const image = new Image();
      image.src = f.pictures[screen.dataset.what];
      return image; // decoded before it is asked for
    }));
    let timer = null;
    const turn = () => {
      const now = loop.frames[at.value];
      screens.forEach((screen, i) => {
        screen.src = kept[at.value][i].src;
        screen.alt = now.alts[screen.dataset.what];
        screen.previousElementSibling.textContent = now.labels[screen.dataset.what];
      });
      byId("loop-label").textContent = now.label;
      at.setAttribute("aria-valuetext", now.label);
      if (here) {
        here.style.visibility = now.place ? "visible" : "hidden";
        if (now.place) { here.setAttribute("cx", now.place[0]); here.setAttribute("cy", now.place[1]); }
      }
    };
    const run = (on) => {
      clearInterval(timer);
      timer = on ? setInterval(() => {
        at.value = (Number(at.value) + 1) % loop.frames.length;
        turn();
      }, 1000 / Number(speed.value)) : null;
      play.textContent = on ? "❚❚ Pause" : "▶ Play";
      play.setAttribute("aria-pressed", String(on));
    };
    play.addEventListener("click", () => run(timer === null));
    at.addEventListener("input", () => { run(false); turn(); });
    speed.addEventListener("change", () => { if (timer !== null) run(true); });
    at.value = 0;
    turn();
  }

  // --- the value below the pointer, read back from the colour of the pixel
  const canvases = new Map(), readout = byId("readout");
  function canvasOf(image) {
    if (!canvases.has(image.src)) {
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      canvases.set(image.src, context);
    }
    return canvases.get(image.src);
  }
  const scales = {};
  function scaleOf(kind) {
    if (!scales[kind]) {
      const bar = document.querySelector(`.levels[data-bar="${kind}"]`), n = bar.naturalWidth;
      const pixels = canvasOf(bar).getImageData(0, 0, n, 1).data, values = new Map();
      const low = Number(bar.dataset.low), high = Number(bar.dataset.high);
      const log = bar.dataset.scale === "log"; // its first colour is what is dry
      const value = (i) => (log ? low * (high / low) ** (Math.max(0, i - 1) / (n - 2)) : low + (i * (high - low)) / (n - 1));
      for (let i = 0; i < n; i++) {
        const sign = i === 0 ? (log ? "< " : "≤ ") : i === n - 1 ? "≥ " : "";
        values.set(pixels.slice(4 * i, 4 * i + 3).join(), [sign, value(i)]);
      }
      scales[kind] = { values, units: bar.dataset.units };
    }
    return scales[kind];
  }
  function valueAt(image, x, y) {
    const r = image.getBoundingClientRect();
    const i = Math.floor(((x - r.left) / r.width) * image.naturalWidth);
    const j = Math.floor(((y - r.top) / r.height) * image.naturalHeight);
    if (i < 0 || j < 0 || i >= image.naturalWidth || j >= image.naturalHeight) return null;
    const scale = scaleOf(image.dataset.bar);
    const found = scale.values.get(canvasOf(image).getImageData(i, j, 1, 1).data.slice(0, 3).join());
    if (!found) return "missing";
    const [sign, value] = found;
    const celsius = scale.units === "K" && image.dataset.bar === "field";
    const digits = scale.units === "mm" && Math.abs(value) < 10 ? 2 : 1;
    const said = `${sign}${text(value, digits)} ${scale.units}`;
    return celsius ? `${said} (${text(value - 273.15, 1)} °C)` : said;
  }
  function imageBelow(event) {
    if (event.target === range) {
      const r = box.getBoundingClientRect();
      const left = (event.clientX - r.left) / r.width < Number(range.value) / 100;
      return byId(`compare-img-${left ? "left" : "right"}`);
    }
    return event.target.closest ? event.target.closest("img.pixels") : null;
  }
  document.addEventListener("pointermove", (event) => {
    const image = imageBelow(event);
    const said = image && image.naturalWidth ? valueAt(image, event.clientX, event.clientY) : null;
    readout.hidden = said === null;
    if (said === null) return;
    readout.textContent = said;
    readout.style.left = `${Math.min(event.clientX + 14, innerWidth - readout.offsetWidth - 4)}px`;
    readout.style.top = `${Math.max(4, event.clientY - 34)}px`;
  });
})();
