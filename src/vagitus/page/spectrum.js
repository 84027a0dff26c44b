// A spectrogram to look at. What the model hears is computed within its graph, not here.

const FRAME_S = 0.032;
const MAX_COLUMNS = 1600;
const SHOWN_DB = 70; // below the strongest line
const LEAST_DB = -20; // the strongest line of a recording that is silent, -96 dB below that of a full-scale sine

/** Samples -> {nColumns, nRows, values: Uint8Array}, 255 the strongest; rows from 0 Hz up to half the rate. */
export function spectrogram(samples, rateHz) {
  const size = 2 ** Math.round(Math.log2(FRAME_S * rateHz));
  const step = Math.max(size / 4, samples.length / MAX_COLUMNS);
  const nColumns = Math.max(1, Math.floor(samples.length / step));
  const nRows = size / 2;
  const hann = Float64Array.from({ length: size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));
  const level = new Float32Array(nColumns * nRows);
  let most = LEAST_DB;
  for (let column = 0; column < nColumns; column++) {
    const from = Math.round((column + 0.5) * step - size / 2);
    const [re, im] = [new Float64Array(size), new Float64Array(size)];
    for (let i = 0; i < size; i++) re[i] = hann[i] * (samples[from + i] ?? 0);
    fft(re, im);
    for (let row = 0; row < nRows; row++) {
      const db = 10 * Math.log10(re[row] ** 2 + im[row] ** 2 + 1e-20);
      level[column * nRows + row] = db;
      most = Math.max(most, db);
    }
  }
  const values = Uint8Array.from(level, (db) => Math.max(0, 255 * (1 + (db - most) / SHOWN_DB)));
  return { nColumns, nRows, values };
}

/** In place, radix 2: Cooley & Tukey 1965, Mathematics of Computation 19. */
export function fft(re, im) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [re[i], re[j]] = [re[j], re[i]];
      [im[i], im[j]] = [im[j], im[i]];
    }
  }
  for (let length = 2; length <= n; length *= 2) {
    const half = length / 2;
    for (let k = 0; k < half; k++) {
      const cos = Math.cos((-2 * Math.PI * k) / length);
      const sin = Math.sin((-2 * Math.PI * k) / length);
      for (let i = k; i < n; i += length) {
        const j = i + half;
        const x = re[j] * cos - im[j] * sin;
        const y = re[j] * sin + im[j] * cos;
        re[j] = re[i] - x;
        im[j] = im[i] - y;
        re[i] += x;
        im[i] += y;
      }
    }
  }
}
