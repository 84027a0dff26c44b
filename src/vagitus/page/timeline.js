// Waveform, spectrogram and the parts of a recording on one time axis. Every part is a button: arrow keys go from one
// to the next, Enter or Space plays it.

import { element, shape } from "./elements.js";
import { clock, number } from "./words.js";

const CELL_PX = 46; // a part's button: a fingertip
const NARROW_CELL_PX = 24; // where there are many; WCAG 2.2, 2.5.8
const MANY = 120;
const MAX_CANVAS_PX = 8192;

/**
 * @param box element to fill.
 * @param prediction as score.js gives it.
 * @param sound {samples, sampleRateHz, spectrogram} or null if it was not kept.
 * @param play called with (start_s, end_s); null without a sound.
 * @returns {playing(index or -1), headAt(seconds or null), drops(found)}
 */
export function drawTimeline(box, prediction, sound, play) {
  const { windows, duration_s: durationS, threshold } = prediction;
  const percent = (seconds) => `${(100 * seconds) / durationS}%`;
  const edges = boundaries(windows, durationS);
  const cellPx = windows.length > MANY ? NARROW_CELL_PX : CELL_PX;
  const least = Math.min(...edges.slice(1).map((edge, i) => edge - edges[i]));
  const width = windows.length > 1 ? Math.ceil((cellPx * durationS) / Math.max(least, durationS / 2000)) : 0;
  const inner = element("div", { class: "inner", style: { width: `max(100%, ${Math.min(width, windows.length * 2 * cellPx)}px)` } });
  const lines = element("div", { class: "lines", role: "region", "aria-label": "Time line", tabindex: "0" }, inner);
  box.replaceChildren(lines);

  const selection = element("div", { class: "selection", hidden: "" });
  const head = element("div", { class: "head", hidden: "" });
  const dropsBox = element("div", { class: "drops", hidden: "" });
  if (sound) {
    const wave = element("canvas", { class: "wave", role: "img", "aria-label": `Waveform, ${durationS.toFixed(1)} seconds` });
    const spectrum = element("canvas", {
      class: "spectrum",
      role: "img",
      "aria-label": `Spectrogram, 0 to ${sound.sampleRateHz / 2} hertz, low at the bottom`,
    });
    inner.append(wave, dropsBox, spectrum);
    const paint = () => {
      const pixels = Math.min(MAX_CANVAS_PX, Math.round(inner.clientWidth * devicePixelRatio));
      drawWave(wave, sound.samples, pixels);
      drawSpectrogram(spectrum, sound.spectrogram);
    };
    requestAnimationFrame(paint);
    matchMedia("(prefers-color-scheme: dark)").onchange = paint;
  }

  const buttons = windows.map((part, i) => {
    const positive = threshold !== null && part.score >= threshold;
    const side = threshold === null ? "" : positive ? ", at or above the threshold" : ", below the threshold";
    const name = `Part ${i + 1} of ${windows.length}, ${part.start_s.toFixed(1)} to ${part.end_s.toFixed(1)} seconds, score ${number(part.score)}${side}`;
    const show = () => {
      Object.assign(selection.style, { left: percent(part.start_s), width: percent(part.end_s - part.start_s) });
      selection.hidden = false;
    };
    return element(
      "button",
      {
        type: "button",
        class: positive ? "positive" : null,
        "aria-label": play ? `${name}. Play` : name,
        "aria-pressed": play ? "false" : null,
        tabindex: i ? "-1" : "0",
        style: { left: percent(edges[i]), width: percent(edges[i + 1] - edges[i]), "--score": part.score },
        onclick: play && (() => play(part.start_s, part.end_s, i)),
        onfocus: show,
        onmouseenter: show,
      },
      shape(threshold === null ? "class" : positive ? "above" : "below"),
      element("span", {}, number(part.score)),
    );
  });
  const strip = element("div", { class: cellPx === CELL_PX ? "strip" : "strip narrow", role: "toolbar", "aria-label": "Parts of the recording and their scores" });
  strip.append(...buttons);
  if (threshold !== null) strip.append(element("div", { class: "line", style: { "--threshold": threshold } }));
  strip.onkeydown = (event) => {
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (at < 0 || to === undefined || !buttons[to]) return;
    event.preventDefault();
    buttons[at].tabIndex = -1;
    buttons[to].tabIndex = 0;
    buttons[to].focus();
    buttons[to].scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  strip.onmouseleave = () => {
    selection.hidden = !buttons.includes(document.activeElement);
  };
  if (windows.length) inner.append(strip);
  inner.append(axis(durationS, percent), selection, head);
  const shade = () => {
    const height = strip.isConnected ? strip.offsetTop : inner.clientHeight;
    selection.style.height = head.style.height = `${Math.max(height, 4)}px`;
  };
  requestAnimationFrame(shade);

  return {
    playing(index) {
      if (play) buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === index)));
    },
    headAt(seconds) {
      head.hidden = seconds === null;
      if (seconds !== null) head.style.left = percent(seconds);
    },
    drops(found) {
      const most = Math.max(...found.map(({ drop }) => Math.abs(drop)), 1e-9);
      dropsBox.replaceChildren(
        ...found.map(({ start_s, end_s, drop }) =>
          element("div", {
            class: drop < 0 ? "against" : null,
            style: { left: percent(start_s), width: percent(end_s - start_s), height: `${(100 * Math.abs(drop)) / most}%` },
          }),
        ),
      );
      dropsBox.hidden = false;
      shade();
    },
  };
}

/** Parts overlap; each button stands for the time that is nearest to its part's middle. */
function boundaries(windows, durationS) {
  const middles = windows.map(({ start_s, end_s }) => (start_s + end_s) / 2);
  return [0, ...middles.slice(1).map((middle, i) => (middle + middles[i]) / 2), durationS];
}

function axis(durationS, percent) {
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60].find((seconds) => durationS / seconds <= 8) ?? 60;
  const ticks = [];
  for (let at = 0; at < durationS - step * 0.4; at += step) {
    ticks.push(element("span", { style: { left: percent(at) } }, step < 1 ? `${at.toFixed(1)} s` : step < 60 && durationS < 60 ? `${at} s` : clock(at)));
  }
  return element("div", { class: "axis", "aria-hidden": "true" }, ...ticks);
}

function colour(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const hex = text.length === 4 ? text.replace(/[0-9a-f]/gi, "$&$&") : text;
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

function drawWave(canvas, samples, width) {
  const height = 144;
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.fillStyle = `rgb(${colour("--accent")})`;
  let most = 1e-4;
  for (const x of samples) most = Math.max(most, Math.abs(x));
  for (let column = 0; column < width; column++) {
    const from = Math.floor((column * samples.length) / width);
    const to = Math.max(from + 1, Math.floor(((column + 1) * samples.length) / width));
    let [low, high] = [0, 0];
    for (let i = from; i < to; i++) {
      low = Math.min(low, samples[i] / most);
      high = Math.max(high, samples[i] / most);
    }
    const top = (height / 2) * (1 - high * 0.95);
    context.fillRect(column, top, 1, Math.max(1.5, (height / 2) * (1 - low * 0.95) - top));
  }
}

/** From the ground of a card to ink, through the accent. */
function drawSpectrogram(canvas, { nColumns, nRows, values }) {
  Object.assign(canvas, { width: nColumns, height: nRows });
  const stops = [colour("--page"), colour("--accent"), colour("--ink")];
  const table = Array.from({ length: 256 }, (_, value) => {
    const at = (value / 255) ** 1.2 * 2;
    const k = Math.min(1, Math.floor(at));
    return stops[k].map((from, c) => from + (stops[k + 1][c] - from) * (at - k));
  });
  const context = canvas.getContext("2d");
  const image = context.createImageData(nColumns, nRows);
  for (let column = 0; column < nColumns; column++) {
    for (let row = 0; row < nRows; row++) {
      const at = 4 * ((nRows - 1 - row) * nColumns + column);
      image.data.set(table[values[column * nRows + row]], at);
      image.data[at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}
