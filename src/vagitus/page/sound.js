// From a file or a recording to mono samples at the model's rate.
//
// WAV is read here, so that its samples are exactly those that vagitus.audio reads; everything else by the browser.
// The browser would also change the rate while it decodes, each in its own way; so it decodes at DECODE_RATE_HZ and the
// rate is changed here, with the passband and stopband of soxr's HQ, which vagitus uses.

export const MAX_DURATION_S = 600;
const DECODE_RATE_HZ = 48_000; // phones record at it, and Opus knows no other
const MAX_WAV_BYTES = 400e6; // ten minutes of two channels at 96 kHz and 24 bits are 346 MB
const MAX_OTHER_BYTES = 100e6;
const MAX_PEAK = 8; // as vagitus.audio: a float file beyond it was never scaled to [-1, 1]
const PASSBAND = 0.913; // of the lower Nyquist frequency; the stopband begins at 1
const ATTENUATION_DB = 120;
const TABLE_PER_CROSSING = 2048; // interpolated linearly between: an error of -130 dB
const KEPT_PHASES = 2000;

/** What a person did, said to a person. */
export class SoundError extends Error {}

/** A File -> {samples, sampleRateHz}: mono Float32Array at the file's rate (WAV) or DECODE_RATE_HZ. */
export async function readFile(file) {
  if (!file.size) throw new SoundError(`“${file.name}” is empty. Copy it again, or open another file.`);
  const head = new DataView(await file.slice(0, 12).arrayBuffer());
  if (head.byteLength === 12 && text(head, 0) === "RIFF" && text(head, 8) === "WAVE") return readWav(file);
  if (file.size > MAX_OTHER_BYTES) throw tooLong(file.name);
  const durationS = await announcedDuration(file);
  if (durationS > MAX_DURATION_S) throw tooLong(file.name, durationS);
  let buffer;
  try {
    const context = new OfflineAudioContext(1, 1, DECODE_RATE_HZ);
    buffer = await context.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new SoundError(
      `“${file.name}” is not a recording that this browser can read. Open a WAV, MP3, M4A, OGG or FLAC file.`,
    );
  }
  if (buffer.duration > MAX_DURATION_S) throw tooLong(file.name, buffer.duration);
  const samples = new Float32Array(buffer.length);
  for (let c = 0; c < buffer.numberOfChannels; c++) {
    const channel = buffer.getChannelData(c);
    for (let i = 0; i < samples.length; i++) samples[i] += channel[i] / buffer.numberOfChannels;
  }
  return { samples: checked(samples, file.name), sampleRateHz: buffer.sampleRate };
}

function tooLong(name, durationS) {
  const lasts = durationS ? `lasts ${Math.round(durationS / 60)} minutes` : "is too large";
  return new SoundError(`“${name}” ${lasts}; this page takes up to ${MAX_DURATION_S / 60} minutes. Open a shorter piece.`);
}

/** What the browser says a file lasts without decoding it; NaN if it cannot. */
function announcedDuration(file) {
  return new Promise((resolve) => {
    const url = URL.createObjectURL(file);
    const probe = new Audio();
    const done = () => {
      clearTimeout(timer);
      resolve(Number.isFinite(probe.duration) ? probe.duration : NaN);
      probe.removeAttribute("src");
      URL.revokeObjectURL(url);
    };
    const timer = setTimeout(done, 3000);
    probe.preload = "metadata";
    probe.onloadedmetadata = probe.onerror = done;
    probe.src = url;
  });
}

function text(view, at) {
  return String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at, 4));
}

async function readWav(file) {
  let at = 12;
  let format;
  while (at + 8 <= file.size) {
    const chunk = new DataView(await file.slice(at, at + 48).arrayBuffer());
    const name = text(chunk, 0);
    const length = chunk.getUint32(4, true);
    if (name === "fmt " && chunk.byteLength >= 24) {
      const extended = chunk.getUint16(8, true) === 0xfffe && chunk.byteLength >= 34;
      format = {
        code: chunk.getUint16(extended ? 32 : 8, true),
        nChannels: chunk.getUint16(10, true),
        rateHz: chunk.getUint32(12, true),
        bits: chunk.getUint16(22, true),
      };
    }
    if (name === "data") return wavSamples(file, format, at + 8, length);
    at += 8 + length + (length % 2);
  }
  throw cutShort(file.name);
}

function cutShort(name) {
  return new SoundError(`“${name}” is cut short: it ends before its header says. Copy it again.`);
}

const WAV_READERS = {
  "1/8": [1, (view, at) => (view.getUint8(at) - 128) / 128],
  "1/16": [2, (view, at) => view.getInt16(at, true) / 32768],
  "1/24": [3, (view, at) => (view.getUint16(at, true) + view.getInt8(at + 2) * 65536) / 8388608],
  "1/32": [4, (view, at) => view.getInt32(at, true) / 2147483648],
  "3/32": [4, (view, at) => view.getFloat32(at, true)],
  "3/64": [8, (view, at) => view.getFloat64(at, true)],
};

async function wavSamples(file, format, from, announced) {
  const reader = WAV_READERS[`${format?.code}/${format?.bits}`];
  const { nChannels, rateHz } = format ?? {};
  if (!reader || !nChannels || nChannels > 64 || rateHz < 100 || rateHz > 768_000) {
    throw new SoundError(`“${file.name}” is a WAV file of a kind this page does not read. Save it as 16-bit PCM.`);
  }
  const [width, read] = reader;
  // Written to a pipe, the length is not known.
  const length = announced >= 0x7ffff000 ? file.size - from : announced;
  if (from + length > file.size) throw cutShort(file.name);
  const nSamples = Math.floor(length / (width * nChannels));
  if (nSamples > MAX_DURATION_S * rateHz) throw tooLong(file.name, nSamples / rateHz);
  if (length > MAX_WAV_BYTES) throw tooLong(file.name);
  if (!nSamples) throw new SoundError(`“${file.name}” holds no sound. Open another file.`);
  const view = new DataView(await file.slice(from, from + length).arrayBuffer());
  const samples = new Float32Array(nSamples);
  for (let i = 0, at = 0; i < nSamples; i++) {
    let sum = 0;
    for (let c = 0; c < nChannels; c++, at += width) sum += read(view, at);
    samples[i] = sum / nChannels;
  }
  return { samples: checked(samples, file.name), sampleRateHz: rateHz };
}

function checked(samples, name) {
  for (const x of samples) {
    if (!(Math.abs(x) <= MAX_PEAK)) {
      throw new SoundError(`“${name}” holds values far beyond full scale, so it is damaged or was never scaled. Export it again.`);
    }
  }
  return samples;
}

/**
 * Change the rate of samples: a windowed sinc, Kaiser's window, flat to PASSBAND and ATTENUATION_DB down from the
 * lower of the two Nyquist frequencies. round(n * toHz / fromHz) samples come out.
 *
 * Source: Oppenheim & Schafer, Discrete-Time Signal Processing, 3rd ed., section 7.6.
 */
export function resample(samples, fromHz, toHz) {
  if (fromHz === toHz) return samples;
  const divisor = gcd(fromHz, toHz);
  const [up, down] = [toHz / divisor, fromHz / divisor];
  const narrowing = Math.min(1, toHz / fromHz); // of the band, relative to the input's Nyquist frequency
  const cutoff = narrowing * ((1 + PASSBAND) / 2);
  const transition = Math.PI * narrowing * (1 - PASSBAND);
  const half = Math.ceil((ATTENUATION_DB - 8) / (2.285 * transition) / 2); // input samples on each side
  const beta = 0.1102 * (ATTENUATION_DB - 8.7);
  const perSample = Math.ceil(TABLE_PER_CROSSING * cutoff);
  const table = new Float64Array(half * perSample + 2);
  for (let i = 0; i < table.length; i++) {
    const x = i / perSample;
    const inside = 1 - (x / half) ** 2;
    const sinc = x === 0 ? 1 : Math.sin(Math.PI * cutoff * x) / (Math.PI * cutoff * x);
    table[i] = inside > 0 ? (cutoff * sinc * bessel0(beta * Math.sqrt(inside))) / bessel0(beta) : 0;
  }
  const taps = (fraction) => {
    const row = new Float64Array(2 * half);
    let sum = 0;
    for (let k = 0; k < row.length; k++) {
      const x = Math.abs(k - half + 1 - fraction) * perSample;
      const i = Math.floor(x);
      row[k] = i + 1 < table.length ? table[i] + (x - i) * (table[i + 1] - table[i]) : 0;
      sum += row[k];
    }
    return row.map((value) => value / sum);
  };
  const kept = new Map();
  const out = new Float32Array(Math.round((samples.length * toHz) / fromHz));
  for (let i = 0; i < out.length; i++) {
    const at = Math.floor((i * down) / up);
    const phase = (i * down) % up;
    let row = kept.get(phase);
    if (!row) {
      row = taps(phase / up);
      if (kept.size < KEPT_PHASES) kept.set(phase, row);
    }
    const first = at - half + 1;
    const end = Math.min(row.length, samples.length - first);
    let sum = 0;
    for (let k = Math.max(0, -first); k < end; k++) sum += row[k] * samples[first + k];
    out[i] = sum;
  }
  return out;
}

function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}

function bessel0(x) {
  let sum = 1;
  for (let k = 1, term = 1; term > 1e-17 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

/** Mono samples -> a 16-bit WAV Blob, for what a person chose to keep. */
export function wavBlob(samples, sampleRateHz) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const put = (at, name) => [...name].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  put(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  put(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, sampleRateHz, true);
  view.setUint32(28, 2 * sampleRateHz, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  put(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((x, i) => view.setInt16(44 + 2 * i, Math.max(-32768, Math.min(32767, Math.round(x * 32768))), true));
  return new Blob([view.buffer], { type: "audio/wav" });
}
