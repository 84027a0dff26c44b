// The model, off the page's own thread. It takes {id, task, ...} and answers {id, share}, {id, value} or {id, error}.
// Samples come in by message and go nowhere else: the only requests made here are for the model and its runtime.

import * as ort from "./ort/ort.js";
import { occlusion, scoreRecording } from "./score.js";
import { resample } from "./sound.js";
import { spectrogram } from "./spectrum.js";

ort.env.wasm.numThreads = 1; // more would need headers that a plain static host does not send
ort.env.wasm.wasmPaths = { wasm: new URL("./ort/ort-wasm-simd-threaded.wasm", import.meta.url).href };

let session;
let header;
let warm; // the promise of a first run, which is slower than others

const TASKS = {
  async open() {
    const [described, content] = await Promise.all([
      fetched("./model.json").then((response) => response.json()),
      fetched("./model.onnx").then((response) => response.arrayBuffer()),
    ]);
    if (described.format !== 1) {
      throw new Error(`The model has format ${described.format}; this page reads format 1. Export the page again.`);
    }
    // Only pages on https or on this device may compute a hash; others cannot record either.
    if (globalThis.crypto?.subtle) {
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
      const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
      if (hex !== described.sha256) {
        throw new Error("The model and its description do not belong together. Reload the page; if that does not help, export it again.");
      }
    }
    session = await ort.InferenceSession.create(content, { executionProviders: ["wasm"], logSeverityLevel: 3 });
    header = { ...described, inputs: session.inputNames };
    warm = scoreRecording(run, header, new Float32Array(header.least_samples).fill(0.1)).catch(() => {});
    return header;
  },

  async score({ samples, sampleRateHz }, onProgress) {
    const ours = resample(samples, sampleRateHz, header.sample_rate_hz);
    await warm; // a session does one thing at a time
    const began = performance.now();
    const prediction = await scoreRecording(run, header, ours, onProgress);
    prediction.took_s = (performance.now() - began) / 1000;
    return { prediction, samples: ours, spectrogram: spectrogram(ours, header.sample_rate_hz) };
  },

  async draw({ samples, sampleRateHz }) {
    return { spectrogram: spectrogram(samples, sampleRateHz) };
  },

  async occlusion({ samples }, onProgress) {
    return occlusion(run, header, samples, onProgress);
  },
};

async function fetched(path) {
  const response = await fetch(new URL(path, import.meta.url));
  if (!response.ok) throw new Error(`The model could not be loaded (${response.status}). Reload the page.`);
  return response;
}

async function run(feeds, outputs) {
  const tensors = Object.entries(feeds).map(([name, [data, dims]]) => [name, new ort.Tensor("float32", data, dims)]);
  return session.run(Object.fromEntries(tensors), outputs);
}

self.onmessage = async ({ data: { id, task, ...given } }) => {
  try {
    const value = await TASKS[task](given, (share) => self.postMessage({ id, share }));
    self.postMessage({ id, value });
  } catch (error) {
    self.postMessage({ id, error: error.message });
  }
};
