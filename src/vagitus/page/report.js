// A report of one result to take along: HTML that needs nothing else, or JSON. There is no sound in either.

import { SPREAD_MEANING, date, duration, number, spread, verdict } from "./words.js";

const MARKS = { above: "▲", below: "○", none: "–", class: "◆" };
const STYLE =
  "body{font:1rem/1.5 system-ui,sans-serif;max-width:48rem;margin:0 auto;padding:1.5rem;color:#17212b;background:#fff}" +
  "h1{font-size:2.2rem;margin:.5rem 0}.notice{background:#17212b;color:#fff;padding:.6rem 1rem;font-weight:700}" +
  "table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{text-align:left;padding:.3rem 1rem .3rem 0;border-bottom:1px solid #dbe1e7}" +
  "img{width:100%;height:10rem;image-rendering:auto;border:1px solid #dbe1e7}dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}" +
  "dt{color:#53606c}dd{margin:0;overflow-wrap:anywhere}p{max-width:68ch}";

const escaped = (text) =>
  String(text).replace(/[&<>"']/g, (letter) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" })[letter]);

/** @param images [{title, url}] with data: URLs */
export function reportHtml({ name, when, prediction, model }, images, notice) {
  const said = verdict(prediction);
  const parts = spread(prediction);
  const rows = prediction.windows.map(
    ({ start_s, end_s, score }, i) =>
      `<tr><td>${i + 1}</td><td>${start_s.toFixed(2)}</td><td>${end_s.toFixed(2)}</td><td>${score.toFixed(4)}</td></tr>`,
  );
  const facts = { "Recorded or opened": date(when), Length: duration(prediction.duration_s), ...model };
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(name)}: ${escaped(said.title)}</title><style>${STYLE}</style></head><body>
<p class="notice">${escaped(notice)}</p>
<p>${escaped(name)}</p>
<h1><span aria-hidden="true">${MARKS[said.shape]}</span> ${escaped(said.title)}</h1>
<p>${escaped(said.sentence)}</p>
${parts ? `<p><strong>${escaped(parts.badge)}.</strong> ${escaped(parts.sentence)}</p><p>${escaped(SPREAD_MEANING)}</p>` : ""}
${images.map(({ title, url }) => `<h2>${escaped(title)}</h2><img src="${escaped(url)}" alt="${escaped(title)}">`).join("\n")}
<h2>Facts</h2>
<dl>${Object.entries(facts).map(([key, value]) => `<dt>${escaped(key)}</dt><dd>${escaped(value)}</dd>`).join("")}${Object.entries(prediction.probabilities).map(([key, value]) => `<dt>Probability of “${escaped(key)}”</dt><dd>${number(value)}</dd>`).join("")}</dl>
${rows.length ? `<h2>Parts</h2><table><thead><tr><th>Part</th><th>From (s)</th><th>To (s)</th><th>Score</th></tr></thead><tbody>${rows.join("")}</tbody></table>` : ""}
</body></html>
`;
}

/** Windows in a row that reach the threshold, as vagitus.predict.Prediction.events. */
export function events({ windows, threshold }) {
  const found = [];
  let follows = false;
  for (const window of windows) {
    const reaches = window.score >= (threshold ?? 0.5);
    if (reaches && follows) {
      const last = found.pop();
      found.push({ start_s: last.start_s, end_s: window.end_s, score: Math.max(last.score, window.score) });
    } else if (reaches) found.push(window);
    follows = reaches;
  }
  return found;
}

/** As vagitus.predict.to_json, with one prediction. */
export function reportJson({ name, when, prediction, model }, notice) {
  const one = { path: name, ...prediction, events: events(prediction) };
  return JSON.stringify({ notice, when: new Date(when).toISOString(), model, predictions: [one] }, null, 2);
}

/** Hand a text to the person as a file. */
export function save(fileName, type, content) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  const link = Object.assign(document.createElement("a"), { href: url, download: fileName });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
