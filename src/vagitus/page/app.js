// The page: one view at a time, start -> recording or analysing -> result, and the history beside them. The model is
// opened meanwhile: who records first waits for it afterwards, if at all.

import { element, shape } from "./elements.js";
import * as history from "./history.js";
import { Player } from "./player.js";
import { LEVELS, record } from "./recorder.js";
import { reportHtml, reportJson, save } from "./report.js";
import { MAX_DURATION_S, SoundError, readFile, wavBlob } from "./sound.js";
import { drawTimeline } from "./timeline.js";
import { SPREAD_MEANING, clock, date, duration, number, spread, verdict } from "./words.js";

const $ = (id) => document.getElementById(id);
const VIEWS = ["start", "recording", "busy", "result", "history"];
const METER_DB = 60; // from the left end of the level's bar to the right

let header; // what stands in model.json, once the model is open
let opening; // the promise of that
let take; // the recording under way
let shown; // {entry, sound, player, timeline} of the result in view
let job = 0; // a later one makes an earlier one's answer void

// The model's own thread.

const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let lastId = 0;

worker.onmessage = ({ data: { id, value, error, share } }) => {
  const asked = waiting.get(id);
  if (!asked) return; // refused already, when the worker failed
  const { resolve, reject, onProgress } = asked;
  if (share !== undefined) return onProgress?.(share);
  waiting.delete(id);
  if (error === undefined) resolve(value);
  else reject(new SoundError(error));
};
worker.onerror = () => {
  const error = new SoundError("The model could not be started. Use a current browser, and reload the page.");
  for (const { reject } of waiting.values()) reject(error);
  waiting.clear();
};

function ask(task, given = {}, onProgress) {
  return new Promise((resolve, reject) => {
    waiting.set(++lastId, { resolve, reject, onProgress });
    worker.postMessage({ id: lastId, task, ...given });
  });
}

// Views.

function view(name) {
  for (const other of VIEWS) $(other).hidden = other !== name;
  const inHistory = name === "history";
  $("go-start").toggleAttribute("aria-current", !inHistory);
  $("go-history").toggleAttribute("aria-current", inHistory);
  if (!inHistory) $("go-start").setAttribute("aria-current", "page");
  else $("go-history").setAttribute("aria-current", "page");
  document.body.dataset.view = name;
  scrollTo(0, 0);
  $(name).querySelector("h1")?.focus({ preventScroll: true });
}

function say(text) {
  $("status").textContent = text;
}

function problem(error) {
  $("problem-text").textContent = error instanceof SoundError ? error.message : `Something went wrong (${error.message}). Reload the page.`;
  $("problem").hidden = false;
  scrollTo(0, 0);
  if (!(error instanceof SoundError)) console.error(error);
}

function start() {
  job++;
  closeResult();
  $("problem").hidden = true;
  view("start");
}

function dropTake() {
  take?.stop();
  take = null;
}

// The model.

async function loadModel() {
  header = await ask("open");
  $("notice").textContent = header.notice;
  const names = header.class_names.map((name) => `“${name}”`);
  const listed = names.length > 1 ? `${names.slice(0, -1).join(", ")} from ${names.at(-1)}` : names[0];
  $("purpose").textContent = `The model on this page tells ${listed}.`;
  const facts = modelFacts();
  $("about").replaceChildren(...Object.entries(facts).flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, value)]));
  document.body.dataset.ready = "yes";
  performance.mark("ready");
}

function modelFacts() {
  const facts = {
    "Tells apart": header.class_names.join(", "),
    Threshold: header.threshold === null ? "none: the highest class" : `${header.threshold.toFixed(3)} for “${header.class_names[1]}”`,
    "Hears at once": `${((header.window_frames * header.hop_samples) / header.sample_rate_hz).toFixed(1)} s at ${header.sample_rate_hz} Hz`,
    Network: `${header.card?.model ?? "unknown"}, ${header.numbers}`,
    Licence: header.licence ?? "",
    "Made by": header.card?.provenance?.command ?? "",
    "Model file": `SHA-256 ${header.sha256.slice(0, 16)}…`,
  };
  return Object.fromEntries(Object.entries(facts).filter(([, value]) => value));
}

// Recording and opening.

async function startRecording() {
  $("problem").hidden = true;
  const mine = ++job;
  try {
    const begun = await record(showLevel, () => take && stopRecording());
    if (mine !== job) return begun.stop();
    take = begun;
  } catch (error) {
    return problem(error);
  }
  $("elapsed").textContent = "0:00";
  $("meter").style.width = "0";
  $("level").textContent = "Listening for the level…";
  $("recording-limit").textContent = `It stops by itself after ${MAX_DURATION_S / 60} minutes.`;
  view("recording");
}

function showLevel({ elapsedS, dbfs, level }) {
  $("elapsed").textContent = clock(elapsedS);
  $("meter").style.width = `${Math.max(0, Math.min(100, 100 * (1 + dbfs / METER_DB)))}%`;
  // Written only when it changes, or a screen reader would never stop.
  if ($("level").textContent !== LEVELS[level]) $("level").textContent = LEVELS[level];
}

function stopRecording() {
  const sound = take.stop();
  take = null;
  analyse("Recording", async () => sound);
}

async function analyse(name, read) {
  closeResult();
  $("problem").hidden = true;
  const mine = ++job;
  $("busy-what").textContent = "Reading the sound…";
  $("progress").value = 0;
  view("busy");
  try {
    const { samples, sampleRateHz } = await read();
    if (mine !== job) return;
    if (!header) $("busy-what").textContent = "Getting the model ready…";
    await opening;
    if (mine !== job) return;
    $("busy-what").textContent = `${duration(samples.length / sampleRateHz)} of sound, on this device.`;
    const scored = await ask("score", { samples, sampleRateHz }, (share) => {
      if (mine === job) $("progress").value = share;
    });
    if (mine !== job) return;
    const { took_s: tookS, ...prediction } = scored.prediction;
    const entry = { when: Date.now(), name, prediction, model: modelFacts(), sha256: header.sha256, sound: null };
    try {
      entry.id = await history.add(entry);
    } catch {
      say("The history is not available in this browser window.");
    }
    showResult(entry, { samples: scored.samples, sampleRateHz: header.sample_rate_hz, spectrogram: scored.spectrogram });
    document.body.dataset.tookS = tookS;
    countHistory();
  } catch (error) {
    if (mine !== job) return;
    view("start");
    problem(error);
  }
}

// The result.

function closeResult() {
  shown?.player?.close();
  shown = null;
}

function showResult(entry, sound) {
  closeResult();
  const { prediction } = entry;
  const said = verdict(prediction);
  const abstained = prediction.score === null;
  $("verdict").className = abstained ? "verdict abstained" : "verdict";
  const lead = abstained ? "The model gives no score" : "The model says";
  $("verdict").replaceChildren(
    element(
      "div",
      {},
      element("p", { class: "eyebrow" }, `${entry.name} · ${date(entry.when)} · ${duration(prediction.duration_s)}`),
      element("div", { class: "what" }, shape(said.shape), element("h1", { id: "result-title", tabindex: "-1" }, element("small", {}, lead), said.title)),
      element("p", { class: "sentence" }, said.sentence),
    ),
    ...(abstained ? [] : [uncertainty(prediction)]),
  );
  const player = sound ? new Player(sound.samples, sound.sampleRateHz, (seconds) => {
    if (shown?.player !== player) return;
    shown.timeline.headAt(seconds);
    if (seconds === null) stopped();
  }) : null;
  view("result");
  const play = player && ((from, to, index) => playOrStop(from, to, index));
  const timeline = drawTimeline($("timeline"), prediction, sound, play);
  shown = { entry, sound, player, timeline, playing: null };
  $("timeline-card").hidden = !sound && !prediction.windows.length;
  $("timeline-tools").hidden = !sound;
  // With another model it would explain another score.
  $("occlude").hidden = abstained || entry.sha256 !== header?.sha256;
  $("occlude").disabled = false;
  $("timeline-words").textContent = timelineWords(prediction, sound);
  $("keep").checked = Boolean(entry.sound);
  $("keep-label").hidden = entry.id === undefined || (!sound && !entry.sound);
  $("erase-this").hidden = entry.id === undefined;
  say(`${said.title}. ${said.sentence} ${spread(prediction)?.sentence ?? ""}`);
}

function timelineWords({ windows, threshold }, sound) {
  const how = sound ? "Choose a part to hear it. " : "The sound was not kept. ";
  if (!windows.length) return sound ? "" : how;
  const marks = threshold === null ? "" : "▲ hatched: at or above the threshold. ○ plain: below. The dashed line is the threshold. ";
  return `${how}${marks}Times in seconds; parts overlap by half.`;
}

function gauge({ score, threshold, windows, probabilities }) {
  const scores = windows.map((window) => window.score);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  const [negative, positive] = Object.keys(probabilities);
  // Labels stay within the bar.
  const inside = (share) => `${Math.min(92, Math.max(8, 100 * share))}%`;
  const at = (share) => `${100 * share}%`;
  return element(
    "div",
    { role: "img", "aria-label": `Score ${number(score)} on a bar from 0 to 1, threshold ${number(threshold)}, parts from ${number(low)} to ${number(high)}` },
    element(
      "div",
      { class: "gauge" },
      element("div", { class: "track" }, element("div", { class: "spread", style: { left: at(low), width: at(high - low) } })),
      element("div", { class: "mark", style: { left: at(threshold) } }),
      element("div", { class: "pin", style: { left: at(score) } }),
      element("span", { class: "number", style: { left: inside(score) } }, number(score)),
      element("span", { class: "threshold", style: { left: `${Math.min(80, Math.max(20, 100 * threshold))}%` } }, `threshold ${number(threshold)}`),
    ),
    element("div", { class: "ends" }, element("span", {}, `0 ${negative}`), element("span", {}, `${positive} 1`)),
  );
}

function uncertainty(prediction) {
  const { badge, sentence, agree } = spread(prediction);
  const parts = [
    element("p", { class: agree ? "badge" : "badge open" }, element("span", { "aria-hidden": "true" }, agree ? "=" : "≠"), badge),
    element("p", {}, sentence),
    element("details", {}, element("summary", {}, "What does this mean?"), element("p", { class: "quiet" }, SPREAD_MEANING)),
  ];
  if (prediction.threshold === null) {
    const rows = Object.entries(prediction.probabilities).map(([name, p]) =>
      element(
        "li",
        { class: name === prediction.decision ? "chosen" : null },
        element("span", {}, name === prediction.decision ? `◆ ${name}` : name),
        element("span", {}, number(p)),
        element("meter", { min: 0, max: 1, value: p, "aria-label": name }),
      ),
    );
    parts.unshift(element("ul", { class: "classes" }, ...rows));
  } else parts.unshift(gauge(prediction));
  return element("div", { class: "uncertainty" }, ...parts);
}

function playOrStop(from, to, index) {
  const same = shown.playing === index;
  shown.player.stop();
  if (same) return;
  shown.playing = index;
  shown.timeline.playing(index);
  $("play-all").textContent = index === -1 ? "Stop" : "Play all";
  $("play-all").setAttribute("aria-pressed", String(index === -1));
  shown.player.play(from, to);
}

function stopped() {
  shown.playing = null;
  shown.timeline.playing(-1);
  $("play-all").textContent = "Play all";
  $("play-all").setAttribute("aria-pressed", "false");
}

async function occlude() {
  const mine = shown;
  $("occlude").disabled = true;
  try {
    const found = await ask("occlusion", { samples: mine.sound.samples }, (share) => {
      if (mine === shown) $("timeline-words").textContent = `Listening again without each stretch: ${Math.round(100 * share)} %`;
    });
    if (mine !== shown) return;
    mine.timeline.drops(found);
    const most = found.reduce((a, b) => (b.drop > a.drop ? b : a));
    const name = mine.entry.prediction.threshold === null ? mine.entry.prediction.decision : header.class_names[1];
    $("timeline-words").textContent =
      `Each stretch was turned down to the recording’s quiet level and the score taken again. Solid bars: without it the score for “${name}” falls; ` +
      `striped: it rises. ${most.drop > 0 ? `Most from ${most.start_s.toFixed(1)} to ${most.end_s.toFixed(1)} s: by ${most.drop.toFixed(3)}.` : "No stretch lowers it."}`;
  } catch (error) {
    if (mine === shown) $("timeline-words").textContent = error.message;
  }
}

async function keepOrNot() {
  const { entry, sound } = shown;
  $("problem").hidden = true;
  try {
    const wanted = $("keep").checked ? wavBlob(sound.samples, sound.sampleRateHz) : null;
    await history.keepSound(entry.id, wanted);
    entry.sound = wanted;
    say(wanted ? "The sound is kept on this device." : "The sound is not kept.");
  } catch {
    // What is stored stays as it was, and the box says so.
    if (shown?.entry === entry) $("keep").checked = Boolean(entry.sound);
    problem(
      new SoundError(
        entry.sound
          ? "The sound could not be erased: it is still kept on this device. Try again."
          : "The sound could not be kept: this browser gives no room for it.",
      ),
    );
  }
}

function saveReport(kind) {
  const { entry } = shown;
  const notice = $("notice").textContent;
  const name = `vagitus ${entry.name} ${new Date(entry.when).toISOString().slice(0, 16)}`.replace(/[^\p{L}\p{N} ._-]+/gu, "-").slice(0, 80);
  if (kind === "json") return save(`${name}.json`, "application/json", reportJson(entry, notice));
  const images = [...$("timeline").querySelectorAll("canvas")].map((canvas) => ({
    title: canvas.getAttribute("aria-label"),
    url: canvas.toDataURL("image/png"),
  }));
  save(`${name}.html`, "text/html", reportHtml(entry, images, notice));
}

// The history.

async function countHistory() {
  const n = (await history.all().catch(() => [])).length;
  $("history-count").hidden = !n;
  $("history-count").textContent = n;
}

async function showHistory() {
  job++;
  $("problem").hidden = true;
  dropTake();
  closeResult();
  await listHistory();
  view("history");
}

async function listHistory() {
  const entries = await history.all().catch(() => null);
  $("erase-all").hidden = !entries?.length;
  $("history-words").textContent = !entries
    ? "This browser window keeps no history (perhaps it is private)."
    : entries.length
      ? "Results stay in this browser until you erase them. Sound is there only where you ticked “Keep the sound”."
      : "Nothing here yet. Results appear after you record or open a sound.";
  $("entries").replaceChildren(...(entries ?? []).map(historyRow));
}

function historyRow(entry) {
  const said = verdict(entry.prediction);
  return element(
    "li",
    { class: said.shape },
    shape(said.shape),
    element(
      "div",
      {},
      element("strong", {}, said.title),
      element("p", {}, said.sentence),
      element("p", { class: "quiet" }, `${entry.name} · ${date(entry.when)} · ${duration(entry.prediction.duration_s)}${entry.sound ? " · sound kept" : ""}`),
    ),
    element(
      "div",
      { class: "row" },
      element("button", { type: "button", class: "small", "aria-label": `Show ${entry.name}`, onclick: () => openEntry(entry.id) }, "Show"),
      element("button", { type: "button", class: "small", "aria-label": `Erase ${entry.name}`, onclick: () => eraseOne(entry, listHistory) }, "Erase"),
    ),
  );
}

async function openEntry(id) {
  const mine = ++job;
  $("problem").hidden = true;
  try {
    const entry = await history.get(id);
    if (mine !== job) return;
    if (!entry) return await listHistory();
    let sound = null;
    if (entry.sound) {
      sound = await readFile(new File([entry.sound], entry.name));
      if (mine !== job) return;
      sound.spectrogram = (await ask("draw", sound)).spectrogram;
      if (mine !== job) return;
    }
    showResult(entry, sound);
  } catch (error) {
    if (mine === job) problem(error);
  }
}

async function eraseOne(entry, then) {
  const what = entry.sound ? "Its score and its sound" : "Its score";
  if (!(await confirmed("Erase this result?", `“${entry.name}”. ${what} will be gone for good.`))) return;
  await erased(() => history.erase(entry.id), then);
}

async function eraseAll() {
  if (!(await confirmed("Erase the whole history?", "All results and all kept sounds in this browser will be gone for good."))) return;
  await erased(() => history.eraseAll(), listHistory);
}

async function erased(erase, then) {
  $("problem").hidden = true;
  try {
    await erase();
  } catch {
    problem(new SoundError("It could not be erased: this browser refused, so it is still on this device. Close the page’s other tabs and try again."));
    return;
  }
  say("Erased.");
  await countHistory();
  await then();
}

function confirmed(title, text) {
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm").returnValue = "no";
  $("confirm").showModal();
  return new Promise((resolve) => {
    $("confirm").onclose = () => resolve($("confirm").returnValue === "yes");
  });
}

// What a person can do.

function openFile(file) {
  if (file && !$("open").disabled) analyse(file.name, () => readFile(file));
}

$("record").onclick = startRecording;
$("stop").onclick = stopRecording;
$("discard").onclick = () => {
  dropTake();
  start();
};
$("open").onclick = () => $("file").click();
$("file").onchange = () => {
  openFile($("file").files[0]);
  $("file").value = ""; // so that the same file can be opened again
};
$("go-start").onclick = $("again").onclick = () => {
  dropTake();
  start();
};
$("go-history").onclick = showHistory;
$("play-all").onclick = () => playOrStop(0, shown.entry.prediction.duration_s, -1);
$("occlude").onclick = occlude;
$("keep").onchange = keepOrNot;
$("report-html").onclick = () => saveReport("html");
$("report-json").onclick = () => saveReport("json");
$("erase-this").onclick = () => eraseOne(shown.entry, start);
$("erase-all").onclick = eraseAll;
history.onOtherTab(() => {
  countHistory();
  if (!$("history").hidden) listHistory();
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.toggle("dropping", !$("start").hidden);
});
addEventListener("dragleave", () => document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (!$("start").hidden) openFile(event.dataTransfer.files[0]);
});

// Offline: the worker keeps the whole page; see sw.js.
if ("serviceWorker" in navigator) {
  navigator.serviceWorker.register("sw.js").then(
    (registration) => {
      // The first change of a new worker is to "installed", or to "redundant": it could not keep everything.
      const watch = (worker) =>
        worker?.addEventListener(
          "statechange",
          () => {
            if (worker.state !== "redundant") return;
            $("offline").textContent = registration.active
              ? "Without a network an earlier page and model answer: these could not be kept."
              : "Needs the network: the page could not be kept. Load it again to try once more.";
          },
          { once: true },
        );
      watch(registration.installing);
      registration.addEventListener("updatefound", () => watch(registration.installing));
    },
    () => {
      $("offline").textContent = "Needs the network: this browser keeps no pages.";
    },
  );
  navigator.serviceWorker.ready.then(() => {
    $("offline").textContent = "Works without a network: the page and the model are on this device.";
    document.body.dataset.offline = "ready";
  });
} else {
  $("offline").textContent = "Needs the network: open it on https or on this device to keep it.";
}

countHistory();
opening = loadModel();
opening.catch((error) => {
  $("purpose").textContent = "The model is not available.";
  $("record").disabled = $("open").disabled = true;
  problem(error);
});
$("record").disabled = $("open").disabled = false;
performance.mark("usable");
