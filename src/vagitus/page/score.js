// From samples to a result, as vagitus.export.OnnxModel.score and vagitus.predict do it: the same windows, statistics,
// mean of logits, calibration, threshold and reasons to abstain. Nothing here knows of a page or of onnxruntime: the
// graph is a function, run(feeds, outputs) -> Promise of {name: {data, dims}}, with feeds {name: [Float32Array, dims]}.
//
//   samples  Float32Array, mono, full scale [-1, 1], at header.sample_rate_hz
//   header   what stands in model.json
//   score    calibrated probability: of the positive class (the last) of two, else of the decided class

const STRETCH_FRAMES = 1000;
const OCCLUDED_STRETCHES = 48; // at most; each costs its windows anew
const QUIET_SHARE = 0.1; // of the frames, which set the level that a stretch is turned down to

/** First frames of the windows that cover a recording; the last one ends on its last frame. */
export function windowStarts(nFrames, windowFrames) {
  const hop = Math.max(Math.floor(windowFrames / 2), 1);
  const last = Math.max(nFrames - windowFrames, 0);
  const starts = [];
  for (let start = 0; start <= last; start += hop) starts.push(start);
  if (starts.at(-1) !== last) starts.push(last);
  return starts;
}

export function softmax(logits) {
  const most = Math.max(...logits);
  const e = logits.map((z) => Math.exp(z - most));
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map((value) => value / sum);
}

/** Logits of one recording or window -> calibrated probabilities, by the header's calibration. */
export function calibrated(logits, calibration) {
  const z = Array.from(logits);
  switch (calibration?.name ?? "identity") {
    case "identity":
      return softmax(z);
    case "temperature":
      return softmax(z.map((value) => value / calibration.temperature));
    case "logistic":
      return softmax(z.map((value, k) => calibration.slope * value + calibration.bias[k]));
    case "isotonic": {
      const p = interpolated(z[1] - z[0], calibration.log_odds, calibration.probability);
      return [1 - p, p];
    }
    default:
      throw new Error(`The model is calibrated by “${calibration.name}”, which this page does not know.`);
  }
}

function interpolated(x, knots, values) {
  if (x <= knots[0]) return values[0];
  if (x >= knots.at(-1)) return values.at(-1);
  const k = knots.findIndex((knot) => knot > x) - 1;
  return values[k] + ((values[k + 1] - values[k]) * (x - knots[k])) / (knots[k + 1] - knots[k]);
}

/** The class decided on: from the threshold up the second of two, without one the highest logit. */
export function decided(logits, probabilities, threshold) {
  if (threshold === null) return logits.indexOf(Math.max(...logits));
  return probabilities[1] >= threshold ? 1 : 0;
}

/** Why nothing is said of a recording, in a sentence; "" if something can be. */
export function reasonToAbstain(samples, header) {
  const durationS = samples.length / header.sample_rate_hz;
  if (samples.length < header.least_samples) {
    return `It is too short: ${durationS.toFixed(3)} s. Record a few seconds.`;
  }
  let power = 0;
  for (const x of samples) power += x * x;
  const levelDbfs = 10 * Math.log10(power / samples.length);
  if (levelDbfs < header.silent_dbfs) {
    const level = Number.isFinite(levelDbfs) ? `its level is ${levelDbfs.toFixed(0)} dB below full scale` : "no sound at all";
    return `It is silent: ${level.replace("is -", "is ")}. Check the microphone and record again.`;
  }
  return "";
}

/**
 * Score one recording.
 *
 * @param onProgress called with the share done, 0 to 1; it may throw to stop.
 * @returns {score, decision, probabilities, threshold, duration_s, windows: [{start_s, end_s, score}], reason}: the
 *   fields of vagitus.predict.Prediction, with null for what is unknown.
 */
export async function scoreRecording(run, header, samples, onProgress = () => {}) {
  const rate = header.sample_rate_hz;
  const durationS = samples.length / rate;
  const reason = reasonToAbstain(samples, header);
  if (reason) {
    return { score: null, decision: "", probabilities: {}, threshold: null, duration_s: durationS, windows: [], reason };
  }
  const { starts, logits } = await windowLogits(run, header, samples, await statistics(run, header, samples), onProgress);
  const pooled = meanRow(logits);
  const p = calibrated(pooled, header.calibration);
  const decision = decided(pooled, p, header.threshold);
  const shown = header.class_names.length === 2 ? 1 : decision;
  const hopS = header.hop_samples / rate;
  return {
    score: p[shown],
    decision: header.class_names[decision],
    probabilities: Object.fromEntries(header.class_names.map((name, k) => [name, p[k]])),
    threshold: header.threshold,
    duration_s: durationS,
    windows: starts.map((start, i) => ({
      start_s: start * hopS,
      end_s: Math.min((start + header.window_frames) * hopS, durationS),
      score: calibrated(logits[i], header.calibration)[shown],
    })),
    reason: "",
  };
}

/**
 * Where in time the score comes from: each stretch is turned down to the recording's quiet level, the rest left as it
 * is, and the recording scored again. Statistics stay those of the whole recording, so that only what is heard in
 * the stretch is taken away.
 *
 * @returns [{start_s, end_s, drop}]: score before less score after; above 0 the stretch spoke for the class shown.
 */
export async function occlusion(run, header, samples, onProgress = () => {}) {
  const rate = header.sample_rate_hz;
  const shared = await statistics(run, header, samples);
  const whole = await windowLogits(run, header, samples, shared, (share) => onProgress(share / 4));
  const pooled = meanRow(whole.logits);
  const before = calibrated(pooled, header.calibration);
  const shown = header.class_names.length === 2 ? 1 : decided(pooled, before, header.threshold);
  const quiet = quietLevel(samples, header.hop_samples);
  const windowSamples = header.window_frames * header.hop_samples;
  const step = Math.max(Math.round(windowSamples / 4), Math.ceil(samples.length / OCCLUDED_STRETCHES), header.least_samples);
  const found = [];
  for (let from = 0; from < samples.length; from += step) {
    const to = Math.min(from + step, samples.length);
    const turned = turnedDown(samples, from, to, quiet);
    const logits = whole.logits.slice();
    for (const [i, start] of whole.starts.entries()) {
      const begin = start * header.hop_samples - header.context_samples;
      if (begin < to && begin + windowSamples + 2 * header.context_samples > from) {
        logits[i] = await oneWindow(run, header, turned, start, shared);
      }
    }
    const after = calibrated(meanRow(logits), header.calibration);
    found.push({ start_s: from / rate, end_s: to / rate, drop: before[shown] - after[shown] });
    onProgress(0.25 + (0.75 * to) / samples.length);
  }
  return found;
}

async function windowLogits(run, header, samples, shared, onProgress) {
  const starts = windowStarts(frames(header, samples), header.window_frames);
  const logits = [];
  for (const start of starts) {
    logits.push(await oneWindow(run, header, samples, start, shared));
    onProgress(logits.length / starts.length);
  }
  return { starts, logits };
}

async function oneWindow(run, header, samples, start, shared) {
  const nFrames = Math.min(header.window_frames, frames(header, samples));
  const found = await run({ waveform: cut(header, samples, start, nFrames), ...shared }, ["logits"]);
  return Array.from(found.logits.data);
}

/** Mean and standard deviation over all frames, as far as the graph takes them; by pooling of stretches. */
async function statistics(run, header, samples) {
  const wanted = header.inputs.slice(1);
  if (!wanted.length) return {};
  const n = header.n_rows;
  // NaN leaves the network out; see onnx_graph.py.
  const nothing = Object.fromEntries(wanted.map((name) => [name, [new Float32Array(n).fill(NaN), [1, n]]]));
  const nFrames = frames(header, samples);
  const mean = new Float64Array(n);
  const squares = new Float64Array(n);
  let count = 0;
  for (let first = 0; first < nFrames; first += STRETCH_FRAMES) {
    const more = Math.min(STRETCH_FRAMES, nFrames - first);
    const own = await run({ waveform: cut(header, samples, first, more), ...nothing }, ["stretch_mean", "stretch_variance"]);
    // Chan, Golub & LeVeque 1983, as in export.py.
    for (let row = 0; row < n; row++) {
      const step = own.stretch_mean.data[row] - mean[row];
      squares[row] += more * own.stretch_variance.data[row] + step ** 2 * ((count * more) / (count + more));
      mean[row] += step * (more / (count + more));
    }
    count += more;
  }
  const found = { mean, std: squares.map((value) => Math.sqrt(value / count)) };
  return Object.fromEntries(wanted.map((name) => [name, [Float32Array.from(found[name]), [1, n]]]));
}

/** Samples of frames first .. first + nFrames - 1 with their context; zero beyond the recording. */
function cut(header, samples, first, nFrames) {
  const context = header.context_samples;
  const out = new Float32Array((nFrames - 1) * header.hop_samples + 2 * context);
  const begin = first * header.hop_samples - context; // of the recording, may be negative
  const from = Math.max(begin, 0);
  const to = Math.min(begin + out.length, samples.length);
  if (to > from) out.set(samples.subarray(from, to), from - begin);
  return [out, [1, out.length]];
}

function frames(header, samples) {
  return 1 + Math.floor(samples.length / header.hop_samples);
}

function meanRow(rows) {
  return rows[0].map((_, k) => rows.reduce((sum, row) => sum + row[k], 0) / rows.length);
}

function quietLevel(samples, hop) {
  const levels = [];
  for (let i = 0; i + hop <= samples.length; i += hop) levels.push(rms(samples.subarray(i, i + hop)));
  levels.sort((a, b) => a - b);
  return levels[Math.floor(QUIET_SHARE * levels.length)] ?? 0;
}

function rms(samples) {
  let power = 0;
  for (const x of samples) power += x * x;
  return Math.sqrt(power / samples.length);
}

/** A copy with one stretch at the quiet level, never louder than it was, and no click at its ends. */
function turnedDown(samples, from, to, quiet) {
  const out = samples.slice();
  const gain = Math.min(1, quiet / Math.max(rms(samples.subarray(from, to)), 1e-9));
  const ramp = Math.max(1, Math.min(64, Math.floor((to - from) / 4)));
  for (let i = from; i < to; i++) {
    const inside = Math.min(1, (i - from) / ramp, (to - 1 - i) / ramp);
    out[i] *= 1 + (gain - 1) * inside;
  }
  return out;
}
