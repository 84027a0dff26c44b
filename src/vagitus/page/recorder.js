// The microphone: samples as they come, without the browser's clean-up, which is made for speech and would change what a
// model hears. Nothing is encoded and nothing written.

import { MAX_DURATION_S, SoundError } from "./sound.js";

const QUIET_DBFS = -50;
const CLIPPED = 0.99; // of full scale

export const LEVELS = {
  quiet: "Too quiet: go closer",
  good: "Good level",
  loud: "Too loud: go further away",
};

/**
 * Begin to record.
 *
 * @param onLevel called about five times a second with {elapsedS, dbfs, level}, level a key of LEVELS.
 * @param onEnd called when the limit is reached or the microphone is taken away.
 * @returns {stop() -> {samples, sampleRateHz}}
 */
export async function record(onLevel, onEnd) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new SoundError("This browser gives the microphone only to pages on https or on this device. Open a file instead.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
  } catch (error) {
    throw new SoundError(
      {
        NotAllowedError: "The microphone is not allowed for this page. Allow it in the browser’s settings, then press Record again.",
        NotFoundError: "No microphone was found. Connect one and press Record again, or open a file.",
        NotReadableError: "Another program holds the microphone. Close it and press Record again.",
      }[error.name] ?? `The microphone could not be used (${error.name}). Open a file instead.`,
    );
  }
  let context;
  const release = () => {
    for (const track of stream.getTracks()) track.stop();
    context?.close();
  };
  try {
    context = new AudioContext();
    return await listening(context, stream, release, onLevel, onEnd);
  } catch (error) {
    release(); // or the browser would go on to show that the microphone is in use
    throw new SoundError(`The microphone could not be listened to (${error.name}). Press Record again, or open a file.`);
  }
}

async function listening(context, stream, release, onLevel, onEnd) {
  const parts = [];
  let nSamples = 0;
  let peak = 0;
  let power = 0;
  let nHeard = 0;
  let ended = false;
  await context.audioWorklet.addModule(new URL("./recorder-worklet.js", import.meta.url));
  const source = context.createMediaStreamSource(stream);
  const tap = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  tap.port.onmessage = ({ data }) => {
    if (ended) return;
    parts.push(data);
    nSamples += data.length;
    for (const x of data) {
      peak = Math.max(peak, Math.abs(x));
      power += x * x;
    }
    nHeard += data.length;
    if (nHeard >= 0.2 * context.sampleRate) {
      const dbfs = 10 * Math.log10(power / nHeard + 1e-12);
      const level = peak >= CLIPPED ? "loud" : dbfs < QUIET_DBFS ? "quiet" : "good";
      onLevel({ elapsedS: nSamples / context.sampleRate, dbfs, level });
      [peak, power, nHeard] = [0, 0, 0];
    }
    if (nSamples >= MAX_DURATION_S * context.sampleRate) onEnd();
  };
  stream.getAudioTracks()[0].onended = onEnd;
  source.connect(tap);
  return {
    stop() {
      ended = true;
      release();
      const samples = new Float32Array(nSamples);
      let at = 0;
      for (const part of parts) {
        samples.set(part, at);
        at += part.length;
      }
      return { samples: samples.subarray(0, MAX_DURATION_S * context.sampleRate), sampleRateHz: context.sampleRate };
    },
  };
}
